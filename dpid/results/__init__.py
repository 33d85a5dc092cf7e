"""What an explanation returns: numbers with errors, maps, profiles, pictures of them, and one file that holds all."""
