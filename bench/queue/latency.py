"""placeholder"""
def status_latency(ctx):
    pass
def orphan_latency(ctx):
    pass
