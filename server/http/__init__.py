"""The routes and the sign-in."""
