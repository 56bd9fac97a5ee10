"""placeholder"""
def growth(ctx):
    pass
