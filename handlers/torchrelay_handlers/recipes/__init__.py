"""What each shipped handler does around the network, one module per handler; their options are in `catalogue.SHIPPED`."""
