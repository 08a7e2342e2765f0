"""What trains: one trial as pure functions, and the sweep that compiles many of them."""
