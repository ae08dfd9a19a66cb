"""The slots: each folder answers one question, each file in it is one component."""
