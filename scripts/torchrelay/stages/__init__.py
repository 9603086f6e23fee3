"""One module per stage; its name is the verb's and the action's."""
