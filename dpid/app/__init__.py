"""The local page of ``dpid app``: a picture and its prompt in, maps and numbers out, while samples come."""
