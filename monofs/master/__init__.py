"""The master: the namespace served and changed, stores kept in agreement with it, workers placed and told. `service` wires its parts together.

Off the data path (law 2): it is asked at open, never per read.
"""
