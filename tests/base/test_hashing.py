from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stickyproxy.base.hashing import (
    MAX_MEMBERS,
    SlotTable,
    address_key,
    looks_like_pin,
    pin,
    pin_key,
)


@dataclass(frozen=True)
class Task:
    id: str
    service: str = "shop"


def tasks(numbers: Iterable[int]) -> list[Task]:
    return [Task(f"task-{number}") for number in numbers]


KEYS = [b"session-%d" % number for number in range(200)]

groups = st.sets(st.integers(0, 30), max_size=12)


def owners(table: SlotTable[Task], keys: Iterable[bytes] = KEYS) -> dict[bytes, Task | None]:
    return {key: table.owner(key) for key in keys}


class TestGoldenKeys:
    """Written down once: whoever changes one of these moves every session in the field."""

    # key, owner among task-1..task-5, owner after task-3 has left (None: stays)
    GOLDEN = (
        (b"", "task-2", None),
        (b"a", "task-3", "task-1"),
        (b"b", "task-2", None),
        (b"c", "task-1", None),
        (b"session-1", "task-2", None),
        (b"session-2", "task-5", None),
        (b"session-3", "task-3", "task-4"),
        (b"session-4", "task-2", None),
        (b"0123456789abcdef", "task-3", "task-2"),
        (b"fedcba9876543210", "task-5", None),
        (b"\xc0\x00\x02\x01", "task-1", None),  # 192.0.2.1
        (b"\xc0\x00\x02\x02", "task-3", "task-4"),  # 192.0.2.2
        (b"\x20\x01\x0d\xb8\x00\x01\x00\x02", "task-5", None),  # 2001:db8:1:2::/64
        (b"\x00\xff\xfe", "task-2", None),
        (b"x" * 5000, "task-3", "task-5"),
    )

    def test_owners(self) -> None:
        table = SlotTable(tasks(range(1, 6)))
        assert {key: _id(table.owner(key)) for key, _, _ in self.GOLDEN} == {
            key: owner for key, owner, _ in self.GOLDEN
        }

    def test_owners_after_one_left(self) -> None:
        table = SlotTable(tasks([1, 2, 4, 5]))
        assert {key: _id(table.owner(key)) for key, _, _ in self.GOLDEN} == {
            key: moved or owner for key, owner, moved in self.GOLDEN
        }

    def test_only_those_of_the_leaver_moved(self) -> None:
        assert {owner for _, owner, moved in self.GOLDEN if moved} == {"task-3"}
        assert not [key for key, owner, moved in self.GOLDEN if owner == "task-3" and not moved]

    def test_pins(self) -> None:
        assert pin(pin_key(None), "shop", "task-1") == b"sp1.ac00fba6965560b47a5a0db3"
        assert pin(pin_key(None, "swarm-1"), "shop", "task-1") == b"sp1.505bd1e451aaf59dbd3b0750"
        assert pin(pin_key(b"secret"), "shop", "task-1") == b"sp1.163d0398e41871b7a08ac723"


def _id(task: Task | None) -> str | None:
    return None if task is None else task.id


class TestSlotTable:
    def test_nobody_owns_anything_in_an_empty_table(self) -> None:
        table: SlotTable[Task] = SlotTable()
        assert table.owner(b"key") is None
        assert table.updated([]).owner(b"key") is None

    def test_the_only_member_owns_everything(self) -> None:
        assert set(owners(SlotTable(tasks([7]))).values()) == {Task("task-7")}

    @given(groups, st.randoms())
    def test_order_of_members_does_not_matter(
        self, group: set[int], shuffler: random.Random
    ) -> None:
        members = tasks(group)
        before = owners(SlotTable(members))
        shuffler.shuffle(members)
        assert owners(SlotTable(members)) == before

    @given(groups, st.integers(100, 200))
    def test_a_joiner_takes_keys_and_nobody_else_does(self, group: set[int], number: int) -> None:
        joiner = Task(f"task-{number}")
        before = SlotTable(tasks(group))
        after = SlotTable([*tasks(group), joiner])
        for key in KEYS:
            assert after.owner(key) in (before.owner(key), joiner)

    @given(groups.filter(bool))
    def test_only_keys_of_the_leaver_move(self, group: set[int]) -> None:
        leaver, *rest = tasks(group)
        before, after = SlotTable([leaver, *rest]), SlotTable(rest)
        for key in KEYS:
            assert before.owner(key) in (leaver, after.owner(key))

    def test_a_joiner_among_n_takes_about_one_in_n_plus_one(self) -> None:
        before = SlotTable(tasks(range(9)))
        after = SlotTable(tasks(range(10)))
        keys = [b"%d" % number for number in range(10_000)]
        moved = sum(before.owner(key) != after.owner(key) for key in keys)
        assert 850 < moved < 1150

    def test_the_keys_of_a_leaver_are_spread_over_all_others(self) -> None:
        before = SlotTable(tasks(range(10)))
        after = SlotTable(tasks(range(9)))
        keys = [b"%d" % number for number in range(40_000)]
        leaver = Task("task-9")
        heirs = Counter(after.owner(key) for key in keys if before.owner(key) == leaver)
        assert len(heirs) == 9
        assert max(heirs.values()) <= 1.25 * heirs.total() / 9

    def test_load_is_balanced(self) -> None:
        table = SlotTable(tasks(range(10)))
        source = random.Random(1)
        load = Counter(table.owner(source.randbytes(16)) for _ in range(100_000))
        assert max(load.values()) <= 1.1 * load.total() / 10

    def test_services_do_not_share_identities(self) -> None:
        table = SlotTable([Task("1", "a"), Task("1", "b"), Task("b1", "")])
        assert len(set(owners(table).values())) == 3

    def test_a_member_named_twice_counts_once(self) -> None:
        table = SlotTable(tasks([1, 2, 2, 3]))
        assert owners(table) == owners(SlotTable(tasks([1, 2, 3])))
        assert owners(table.updated(tasks([1, 2, 2]))) == owners(SlotTable(tasks([1, 2])))

    def test_too_many_members_are_refused(self) -> None:
        with pytest.raises(ValueError, match="65534"):
            SlotTable(tasks(range(MAX_MEMBERS + 1)))

    def test_as_many_as_fit(self) -> None:
        table = SlotTable(tasks(range(MAX_MEMBERS)))
        assert table.owner(b"key") is not None
        assert table.updated(tasks(range(10))).owner(b"key") in tasks(range(10))


class TestSecondChoice:
    @given(groups, st.sets(st.integers(0, 30)))
    def test_is_the_owner_among_those_not_tried(self, group: set[int], tried: set[int]) -> None:
        """So all proxies agree on it too."""
        table = SlotTable(tasks(group))
        rest = SlotTable(tasks(group - tried))
        for key in KEYS[:20]:
            assert table.owner(key, tasks(tried)) == rest.owner(key)

    def test_is_not_remembered(self) -> None:
        table = SlotTable(tasks(range(5)))
        first = table.owner(b"key")
        assert first is not None
        assert table.owner(b"key", [first]) != first
        assert table.owner(b"key") == first


class TestUpdates:
    @given(st.lists(groups, max_size=8), st.data())
    def test_an_updated_table_equals_a_fresh_one(
        self, history: list[set[int]], data: st.DataObject
    ) -> None:
        table: SlotTable[Task] = SlotTable()
        for group in history:
            table = table.updated(tasks(group))
            # Some slots are decided in this generation, others skip it.
            asked = data.draw(st.sets(st.sampled_from(KEYS[:40])))
            assert owners(table, asked) == owners(SlotTable(tasks(group)), asked)
        last = history[-1] if history else set()
        assert owners(table) == owners(SlotTable(tasks(last)))

    @given(groups, groups)
    def test_the_table_that_was_replaced_goes_on_as_before(
        self, group: set[int], later: set[int]
    ) -> None:
        """A request under way may still hold it."""
        old = SlotTable(tasks(group))
        first, second = KEYS[:100], KEYS[100:]
        before = owners(old, first)
        new = old.updated(tasks(later))
        assert owners(new) == owners(SlotTable(tasks(later)))
        assert owners(old, first) == before
        assert owners(old, second) == owners(SlotTable(tasks(group)), second)
        assert owners(new) == owners(SlotTable(tasks(later)))

    def test_two_tables_may_replace_one(self) -> None:
        old = SlotTable(tasks(range(5)))
        owners(old)
        one, two = old.updated(tasks([1, 8])), old.updated(tasks([1, 9]))
        assert owners(one) == owners(SlotTable(tasks([1, 8])))
        assert owners(two) == owners(SlotTable(tasks([1, 9])))

    def test_many_generations(self) -> None:
        """Every member is replaced a hundred times over: seats run out and are given anew."""
        table = SlotTable(tasks(range(20)))
        for first in range(1, 2000):
            group = tasks(range(first, first + 20))
            table = table.updated(group)
            key = KEYS[first % 50]
            assert table.owner(key) == SlotTable(group).owner(key)

    def test_who_comes_back_gets_its_keys_back(self) -> None:
        table = SlotTable(tasks(range(5)))
        before = owners(table)
        table = table.updated(tasks(range(4)))
        owners(table, KEYS[:100])
        assert owners(table.updated(tasks(range(5)))) == before

    def test_a_member_may_be_replaced_by_its_like(self) -> None:
        """The same replica, as a new object."""

        @dataclass(eq=False)
        class Replica:
            service: str
            id: str

        old, new = Replica("shop", "1"), Replica("shop", "1")
        table = SlotTable([old])
        assert table.owner(b"key") is old
        assert table.updated([new]).owner(b"key") is new


class TestAddressKey:
    @pytest.mark.parametrize(
        ("address", "key"),
        [
            ("192.0.2.1", b"\xc0\x00\x02\x01"),
            ("::ffff:192.0.2.1", b"\xc0\x00\x02\x01"),
            ("2001:db8:1:2:3:4:5:6", bytes.fromhex("20010db800010002")),
            ("2001:db8:1:2::", bytes.fromhex("20010db800010002")),
            ("fe80::1%eth0", bytes.fromhex("fe80000000000000")),
            ("::1", bytes(8)),
            ("", b""),
            ("localhost", b"localhost"),
            ("300.0.0.1", b"300.0.0.1"),
            ("a:b", b"a:b"),
            ("1.2.3.4\0", b"1.2.3.4\0"),
            ("\ud800:", b"\\ud800:"),
        ],
    )
    def test_keys(self, address: str, key: bytes) -> None:
        assert address_key(address) == key

    @given(st.text(st.characters()))
    def test_nothing_raises(self, address: str) -> None:
        assert isinstance(address_key(address), bytes)


class TestPins:
    def test_shape(self) -> None:
        assert re.fullmatch(rb"sp1\.[0-9a-f]{24}", pin(pin_key(None), "shop", "task-1"))

    def test_keys_are_32_bytes(self) -> None:
        assert {len(pin_key(secret)) for secret in (None, b"", b"s", b"s" * 5000)} == {32}

    def test_secret_and_realm_make_a_difference(self) -> None:
        keys = [pin_key(None), pin_key(None, "r"), pin_key(b""), pin_key(b"r"), pin_key(b"s")]
        assert len({pin(key, "shop", "task-1") for key in keys}) == len(keys)

    @given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
    def test_names_cannot_be_confused(self, one: tuple[str, str], two: tuple[str, str]) -> None:
        key = pin_key(None)
        assert (pin(key, *one) == pin(key, *two)) == (one == two)

    @pytest.mark.parametrize("names", [("ab", "c"), ("a", "bc"), ("", "abc"), ("1:a", "bc")])
    def test_where_a_name_ends_matters(self, names: tuple[str, str]) -> None:
        assert pin(pin_key(None), *names) != pin(pin_key(None), "abc", "")

    @pytest.mark.parametrize("value", [b"sp1.", b"sp1.00", b'"sp1.00"', b"sp1." + b"x" * 9000])
    def test_what_looks_like_one(self, value: bytes) -> None:
        assert looks_like_pin(value)

    @pytest.mark.parametrize("value", [b"", b"sp1", b"sp2.00", b"SP1.00", b"xsp1.00", b"'sp1.00'"])
    def test_what_does_not(self, value: bytes) -> None:
        assert not looks_like_pin(value)
