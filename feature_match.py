from vpr.cli import feature_match

if __name__ == "__main__":
    feature_match()
