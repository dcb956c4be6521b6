"""Ask a server where photographs were taken.

vpr serve CITY
python examples/client.py http://127.0.0.1:8000 PHOTO...
"""

import sys

import vpr


def main(url: str, photos: list[str]) -> None:
    client = vpr.Client(url)
    for photo in photos:
        answer = client.locate(photo, k=3)  # near=(55.6982, 13.1952), radius_m=300 where the place is roughly known
        print(f"{photo}: {answer}")
        for candidate in answer.candidates:
            print(f"  {candidate.inliers or 0:4} inliers  {candidate.name}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
