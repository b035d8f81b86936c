"""The feature store: the one thing that both sides share. numpy only."""
