"""The wire: frames, handshake, servers, clients, the direct channel, and the messages of every service."""
