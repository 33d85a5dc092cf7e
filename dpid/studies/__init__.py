"""Studies of many pictures: data in, tables and figures out."""
