"""A run that cannot end for want of room is refused before it begins."""

import shutil
from pathlib import Path

import pytest

from retain.errors import EnvironmentFault
from retain.resolve.room import bytes_needed, check_room


def test_full_tuning_needs_room_for_every_weight_its_checkpoints_and_the_copy() -> None:
    lora, full = bytes_needed(100, "lora", publish=True), bytes_needed(100, "full", publish=True)
    assert (lora, full) == ({"run": 100, "home": 100}, {"run": 200, "home": 1300})
    assert bytes_needed(100, "lora", publish=False)["home"] == 0


def test_places_on_one_disk_share_its_room(tmp_path: Path) -> None:
    places = {"run": tmp_path / "run", "home": tmp_path / "home"}
    free = shutil.disk_usage(tmp_path).free
    check_room(places, {"run": free // 4, "home": free // 4})
    with pytest.raises(EnvironmentFault, match="too little room") as caught:
        check_room(places, {"run": int(free * 0.7), "home": int(free * 0.7)})
    assert "--runs" in caught.value.fix
