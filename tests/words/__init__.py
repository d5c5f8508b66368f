"""Tests of floor 0: the words that everything else is said in. The expectations are written out from the contract."""
