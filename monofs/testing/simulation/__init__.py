"""A simulated world for a group of masters: the real core, driver and segment code on virtual time, network, disks and clocks.

Everything that happens follows from one seed. Nothing here knows the product's rules; it only does to a group what the world may do.
"""
