"""Write twin descriptions of surveillance scenes, by a grammar or by a language model."""
