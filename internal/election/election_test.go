package election

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/belfrylb/belfry/internal/lb"
)

var (
	v4 = netip.MustParseAddr("198.51.100.7")
	v6 = netip.MustParseAddr("2001:db8:100::7")
)

func claim(s Quorum, epoch uint64) Claim { return Claim{Quorum: s, Epoch: epoch} }

func TestTheBestCandidateWins(t *testing.T) {
	alive := func(node string) Candidate { return Candidate{Node: node, State: Alive, OnLink: true} }
	with := func(c Candidate, f func(*Candidate)) Candidate { f(&c); return c }
	off := func(c *Candidate) { c.OnLink = false }
	heavy := func(c *Candidate) { c.Weight = 50 }
	in := func(s State) func(*Candidate) { return func(c *Candidate) { c.State = s } }
	claims := func(s Quorum, e uint64) func(*Candidate) { return func(c *Candidate) { c.Claim = claim(s, e) } }

	first := func(addr netip.Addr, nodes ...string) string {
		return slices.MinFunc(nodes, func(a, b string) int {
			x, y := key(addr, a), key(addr, b)
			return slices.Compare(x[:], y[:])
		})
	}
	for _, addr := range []netip.Addr{v4, v6} {
		best := first(addr, "a", "b", "c")
		rest := slices.DeleteFunc([]string{"a", "b", "c"}, func(n string) bool { return n == best })
		second := first(addr, rest...)
		third := rest[0]
		if third == second {
			third = rest[1]
		}
		left, lapsed := Place{Node: third, First: true}, Place{Last: []string{best}}
		for _, c := range []struct {
			name       string
			place      Place
			candidates []Candidate
			want       string
		}{
			{"nobody without candidates", Place{}, nil, ""},
			{"the smallest hash", Place{}, []Candidate{alive("a"), alive("b"), alive("c")}, best},
			{"one that joins is none yet", Place{}, []Candidate{with(alive(best), in(Joining))}, ""},
			{"one that is gone is none", Place{Node: third}, []Candidate{with(alive(third), in(Gone))}, ""},
			{"the placed one where it is offered", Place{Node: third}, []Candidate{with(alive(best), claims(Offered, 9)), alive(third)}, third},
			{"likewise where it fails back", Place{Node: third, Failback: lb.FailbackImmediate}, []Candidate{with(alive(best), claims(Offered, 9)), alive(third)}, third},
			{"the hash, not the place, where nobody claims it", Place{Node: third}, []Candidate{alive(best), alive(third)}, best},
			{"the placed one where it is left to it", left, []Candidate{alive(best), alive(third)}, third},
			{"not once somebody claims it", left, []Candidate{alive(best), with(alive(second), claims(Blind, 1)), alive(third)}, second},
			{"not when it is not known", left, []Candidate{alive(best), alive(second)}, best},
			{"not when it is suspected", left, []Candidate{alive(best), with(alive(third), in(Suspected))}, best},
			{"not when it leaves", left, []Candidate{alive(best), with(alive(third), in(Leaving))}, best},
			{"not when it is off-link", left, []Candidate{alive(best), with(alive(third), off)}, best},
			{"one that had its turn comes last", lapsed, []Candidate{alive(best), alive(third)}, third},
			{"but before nobody", lapsed, []Candidate{alive(best), with(alive(third), in(Joining))}, best},
			{"or those who had theirs too", Place{Last: []string{second, best}}, []Candidate{alive(second), alive(best)}, best},
			{"and with its claim like everybody", lapsed, []Candidate{with(alive(best), claims(Blind, 1)), alive(third)}, best},
			{"the owner that does not offer", Place{Node: third}, []Candidate{with(alive(best), claims(Blind, 9)), alive(third)}, best},
			{"nor where it fails back", Place{Node: third, Failback: lb.FailbackImmediate}, []Candidate{with(alive(best), claims(Blind, 9)), alive(third)}, best},
			{"one of two does not offer", Place{Node: third}, []Candidate{with(alive(best), claims(Offered, 9)), with(alive(second), claims(Blind, 9)), alive(third)}, second},
			{"nobody but the placed one takes what is offered", Place{Node: third}, []Candidate{with(alive(second), claims(Offered, 9)), alive(best)}, second},
			{"not when it leaves", Place{Node: third}, []Candidate{with(alive(best), claims(Offered, 9)), with(alive(third), in(Leaving))}, best},
			{"not when it is stalled without having it", Place{Node: third}, []Candidate{with(alive(best), claims(Offered, 9)), with(alive(third), in(Stalled))}, best},
			{"not when it is off-link", Place{Node: third}, []Candidate{with(alive(best), claims(Offered, 9)), with(alive(third), off)}, best},
			{"off-link when all are", Place{Node: third}, []Candidate{with(with(alive(best), off), claims(Offered, 9)), with(alive(third), off)}, third},
			{"off-link although one that leaves is on-link", Place{Node: third}, []Candidate{with(alive(second), in(Leaving)), with(with(alive(best), off), claims(Offered, 9)), with(alive(third), off)}, third},
			{"once it claims, the better claim", Place{Node: third}, []Candidate{with(alive(best), claims(Majority, 9)), with(alive(third), claims(Majority, 8))}, best},
			{"once it claims, any claim that is not offered", Place{Node: third}, []Candidate{with(alive(best), claims(Offered, 1)), with(alive(third), claims(Blind, 8))}, third},
			{"of two who offer it to each other the earlier", Place{Node: third}, []Candidate{with(alive(best), claims(Offered, 1)), with(alive(third), claims(Offered, 8))}, best},
			{"the owner before the hash", Place{}, []Candidate{alive(best), with(alive(third), claims(Blind, 1))}, third},
			{"the owner before the heavy", Place{}, []Candidate{with(alive(best), heavy), with(alive(third), claims(Blind, 1))}, third},
			{"not when it fails back at once", Place{Failback: lb.FailbackImmediate}, []Candidate{alive(best), with(alive(third), claims(Majority, 1))}, best},
			{"a suspected owner keeps it", Place{}, []Candidate{alive(best), with(with(alive(third), claims(Majority, 1)), in(Suspected))}, third},
			{"a stalled owner keeps it", Place{}, []Candidate{alive(best), with(with(alive(third), claims(Majority, 1)), in(Stalled))}, third},
			{"a stalled backup gets nothing", Place{}, []Candidate{with(alive(best), in(Stalled)), alive(third)}, third},
			{"a stalled backup before one that leaves", Place{}, []Candidate{with(alive(third), in(Stalled)), with(alive(best), in(Leaving))}, third},
			{"one that leaves when there is no other", Place{}, []Candidate{with(alive(third), in(Leaving))}, third},
			{"one that leaves loses what it owns", Place{}, []Candidate{with(with(alive(best), in(Leaving)), claims(Majority, 9)), alive(third)}, third},
			{"on-link before off-link", Place{}, []Candidate{with(alive(best), off), alive(third)}, third},
			{"on-link before an off-link owner", Place{}, []Candidate{with(with(alive(best), off), claims(Majority, 9)), alive(third)}, third},
			{"leaving last, even on-link", Place{}, []Candidate{with(alive(best), in(Leaving)), with(alive(third), off)}, third},
			{"the heavier of two new ones", Place{}, []Candidate{alive(best), with(alive(third), heavy)}, third},
			{"majority before minority", Place{}, []Candidate{with(alive(best), claims(Minority, 1)), with(alive(third), claims(Majority, 9))}, third},
			{"minority before blind", Place{}, []Candidate{with(alive(best), claims(Blind, 1)), with(alive(third), claims(Minority, 9))}, third},
			{"the later majority", Place{}, []Candidate{with(alive(best), claims(Majority, 3)), with(alive(third), claims(Majority, 4))}, third},
			{"the earlier minority", Place{}, []Candidate{with(alive(best), claims(Minority, 4)), with(alive(third), claims(Minority, 3))}, third},
			{"the hash of two equal claims", Place{}, []Candidate{with(alive(third), claims(Blind, 3)), with(alive(best), claims(Blind, 3))}, best},
		} {
			for range 2 {
				got, ok := Winner(addr, c.place, c.candidates)
				if got != c.want || ok != (c.want != "") {
					t.Errorf("%s (%s): %q, %v, want %q", c.name, addr, got, ok, c.want)
				}
				slices.Reverse(c.candidates) // The order of the arguments must not matter.
			}
		}
	}
}

// The vectors are of sha256sum: printf 'node-1#198.51.100.7' | sha256sum.
func TestTheOrderIsTheOneOthersUseToo(t *testing.T) {
	for text, want := range map[string]string{
		"node-1#198.51.100.7":    "fb838a32fb79e2c606f4b0afe15c19f4a5467746f147e3626d5779e6607500c4",
		"node-1#2001:db8:100::7": "e7350da77c705b8f16c579d2889ca7b964cd18f9db09709c209ada1d9d47696d",
	} {
		addr := v4
		if text == "node-1#"+v6.String() {
			addr = v6
		}
		k := key(addr, "node-1")
		if got := hex.EncodeToString(k[:]); got != want {
			t.Errorf("key of %s is %s, want %s", text, got, want)
		}
	}
}

func addresses(n int) []netip.Addr {
	a4, a6 := netip.MustParseAddr("198.18.0.0"), netip.MustParseAddr("2001:db8::")
	var as []netip.Addr
	for i := range n {
		if i%2 == 0 {
			as, a4 = append(as, a4), a4.Next()
		} else {
			as, a6 = append(as, a6), a6.Next()
		}
	}
	return as
}

func cluster(n int) []Candidate {
	var cs []Candidate
	for i := range n {
		cs = append(cs, Candidate{Node: fmt.Sprintf("node-%d", i), State: Alive, OnLink: true})
	}
	return cs
}

func TestLosingANodeMovesOnlyItsAddressesAndSpreadsThem(t *testing.T) {
	for _, n := range []int{3, 10, 40} {
		nodes, all := cluster(n), addresses(400*n)
		owner := map[netip.Addr]string{}
		load := map[string]int{}
		for _, a := range all {
			owner[a], _ = Winner(a, Place{}, nodes)
			load[owner[a]]++
		}
		even(t, fmt.Sprintf("%d nodes", n), load, n, 400)

		lost := nodes[n/2].Node
		rest := slices.DeleteFunc(slices.Clone(nodes), func(c Candidate) bool { return c.Node == lost })
		heirs := map[string]int{}
		for _, a := range all {
			w, _ := Winner(a, Place{}, rest)
			if owner[a] != lost && w != owner[a] {
				t.Fatalf("%d nodes: losing %s moved %s from %s to %s", n, lost, a, owner[a], w)
			}
			if owner[a] == lost {
				heirs[w]++
			}
		}
		even(t, fmt.Sprintf("%d nodes, heirs of %s", n, lost), heirs, n-1, load[lost]/(n-1))
	}
}

// even allows five standard deviations of a fair throw.
func even(t *testing.T, what string, load map[string]int, nodes, mean int) {
	t.Helper()
	if len(load) != nodes && mean >= 25 {
		t.Errorf("%s: only %d of %d have any", what, len(load), nodes)
	}
	for node, n := range load {
		if d := n - mean; d*d > 25*(mean+1) {
			t.Errorf("%s: %s has %d, the mean is %d", what, node, n, mean)
		}
	}
}

func TestANodeThatJoinsTakesNothing(t *testing.T) {
	nodes, all := cluster(5), addresses(500)
	grown := append(slices.Clone(nodes), Candidate{Node: "newcomer", State: Alive, OnLink: true})
	taken := 0
	for _, a := range all {
		before, _ := Winner(a, Place{}, nodes)
		for i := range grown {
			grown[i].Claim = Claim{}
			if grown[i].Node == before {
				grown[i].Claim = claim(Minority, 3)
			}
		}
		if after, _ := Winner(a, Place{}, grown); after != before {
			t.Fatalf("%s moved from %s to %s", a, before, after)
		}
		if after, _ := Winner(a, Place{Failback: lb.FailbackImmediate}, grown); after != before {
			taken++
		}
	}
	if taken < 40 || taken > 140 {
		t.Errorf("with immediate failback the newcomer takes %d of 500, about 83 were fair", taken)
	}
}

func randomCandidates(r *rand.Rand) []Candidate {
	cs := cluster(1 + r.IntN(6))
	for i := range cs {
		cs[i].State = State(r.IntN(int(Gone) + 1))
		cs[i].OnLink = r.IntN(3) > 0
		cs[i].Weight = r.IntN(2) * 10
		if r.IntN(2) == 0 {
			cs[i].Claim = claim(1+Quorum(r.IntN(int(Majority))), uint64(r.IntN(3)))
		}
	}
	return cs
}

// Where an address is placed is known to some before others. That must leave no
// address without anybody who answers, and never make two who do not offer it.
func TestOutdatedPlacesDoNoHarm(t *testing.T) {
	for seed := range uint64(20000) {
		r := rand.New(rand.NewPCG(seed, 2))
		cs := randomCandidates(r)
		failback := lb.Failback(r.IntN(2))
		able, answering := 0, 0
		var owners []string
		for _, self := range cs {
			if self.class() == unfit {
				continue
			}
			able++
			placed := fmt.Sprint("node-", r.IntN(7))
			role, _ := RoleOf(self.Node, v6, Place{Node: placed, Failback: failback}, cs)
			if role != Backup {
				answering++
			}
			if role == Owner && self.Claim.Quorum > Offered {
				owners = append(owners, self.Node)
			}
		}
		if able > 0 && answering == 0 || len(owners) > 1 {
			t.Fatalf("seed %d: %d answer, %v own: %+v", seed, answering, owners, cs)
		}
	}
}

func TestEveryoneAgreesWhoeverAsks(t *testing.T) {
	for seed := range uint64(20000) {
		r := rand.New(rand.NewPCG(seed, 1))
		cs := randomCandidates(r)
		placed := []string{"", "node-0", "node-3"}[r.IntN(3)]
		failback := lb.Failback(r.IntN(2))
		w, ok := Winner(v4, Place{Node: placed, Failback: failback}, cs)
		owners, holders := 0, 0
		for _, self := range cluster(7) {
			r.Shuffle(len(cs), func(i, j int) { cs[i], cs[j] = cs[j], cs[i] })
			role, by := RoleOf(self.Node, v4, Place{Node: placed, Failback: failback}, cs)
			if by != w {
				t.Fatalf("seed %d: %s thinks that %q wins, others %q: %+v", seed, self.Node, by, w, cs)
			}
			switch role {
			case Owner:
				owners++
				if self.Node != w {
					t.Fatalf("seed %d: %s owns but %s wins", seed, self.Node, w)
				}
			case Retiring:
				holders++
				i := slices.IndexFunc(cs, func(c Candidate) bool { return c.Node == self.Node })
				if cs[i].Claim.None() || cs[i].class() == unfit {
					t.Fatalf("seed %d: %s holds what it never had: %+v", seed, self.Node, cs[i])
				}
			}
		}
		if ok && owners != 1 || !ok && owners+holders != 0 || holders > 1 {
			t.Fatalf("seed %d: %d owners, %d holders, winner %q: %+v", seed, owners, holders, w, cs)
		}
		if i := slices.IndexFunc(cs, func(c Candidate) bool { return c.Node == w }); ok && !cs[i].Claim.None() && holders > 0 {
			t.Fatalf("seed %d: %s claims already and somebody still holds: %+v", seed, w, cs)
		}
	}
}

// plainWinner puts all candidates in order, and takes the first.
func plainWinner(addr netip.Addr, place Place, cs []Candidate) string {
	unclaimed, reached := true, false
	var placed *Candidate
	for i, c := range cs {
		unclaimed = unclaimed && c.Claim.None()
		reached = reached || c.class() == 0 && c.OnLink
		if c.Node == place.Node {
			placed = &cs[i]
		}
	}
	if placed != nil && (placed.class() != 0 || reached && !placed.OnLink) {
		placed = nil
	}
	if placed != nil {
		offers, keeps := 0, 0
		for _, c := range cs {
			switch able := c.class() == 0 && (c.OnLink || !placed.OnLink); {
			case able && c.Claim.Quorum == Offered:
				offers++
			case able && c.Claim.Quorum > Offered:
				keeps++
			}
		}
		if placed.Claim.None() && (unclaimed && place.First || offers > 0 && keeps == 0) {
			return placed.Node
		}
	}
	fit := slices.DeleteFunc(slices.Clone(cs), func(c Candidate) bool { return c.class() == unfit })
	turn := slices.DeleteFunc(slices.Clone(fit), func(c Candidate) bool { return unclaimed && slices.Contains(place.Last, c.Node) })
	if len(turn) == 0 {
		turn = fit
	}
	return plainBest(addr, turn, place.Node != "" || place.Failback == lb.FailbackNever)
}

// plainBest is the best of those, claims counting or not; empty of none.
func plainBest(addr netip.Addr, of []Candidate, claims bool) string {
	if len(of) == 0 {
		return ""
	}
	yes := map[bool]int{true: 1}
	age := func(c Claim) int {
		if c.Quorum == Majority {
			return -int(c.Epoch)
		}
		return int(c.Epoch)
	}
	return slices.MinFunc(of, func(a, b Candidate) int {
		rank := 0
		if claims {
			rank = cmp.Or(cmp.Compare(b.Claim.Quorum, a.Claim.Quorum), cmp.Compare(age(a.Claim), age(b.Claim)))
		}
		x, y := key(addr, a.Node), key(addr, b.Node)
		return cmp.Or(cmp.Compare(a.class(), b.class()), yes[b.OnLink]-yes[a.OnLink], rank, b.Weight-a.Weight, bytes.Compare(x[:], y[:]))
	}).Node
}

// Whatever the candidates are, who wins and who goes on answering is as if all were put
// in order.
func TestTheBestIsTheFirstOfAllInOrder(t *testing.T) {
	for seed := range uint64(20000) {
		r := rand.New(rand.NewPCG(seed, 3))
		cs := randomCandidates(r)
		for i := range cs { // Most addresses are claimed by few, or offered.
			switch r.IntN(4) {
			case 0, 1:
				cs[i].Claim = Claim{}
			case 2:
				if !cs[i].Claim.None() {
					cs[i].Claim.Quorum = Offered
				}
			}
		}
		addr := addresses(8)[r.IntN(8)]
		place := Place{Failback: lb.Failback(r.IntN(2)), First: r.IntN(2) == 0}
		if r.IntN(3) > 0 {
			place.Node = cs[r.IntN(len(cs))].Node
		}
		for _, c := range cs {
			if r.IntN(4) == 0 {
				place.Last = append(place.Last, c.Node)
			}
		}
		want := plainWinner(addr, place, cs)
		holder := ""
		if i := slices.IndexFunc(cs, func(c Candidate) bool { return c.Node == want }); i >= 0 && cs[i].Claim.None() {
			holder = plainBest(addr, slices.DeleteFunc(slices.Clone(cs), func(c Candidate) bool { return c.Claim.None() || c.class() == unfit }), true)
		}
		for _, self := range cs {
			role := Backup
			switch self.Node {
			case want:
				role = Owner
			case holder:
				role = Retiring
			}
			if got, by := RoleOf(self.Node, addr, place, cs); got != role || by != want {
				t.Fatalf("seed %d: %v: %s is %v of %q, want %v of %q: %+v of %+v", seed, addr, self.Node, got, by, role, want, place, cs)
			}
		}
	}
}

func TestAnOwnerHoldsUntilItsSuccessorClaims(t *testing.T) {
	for _, addr := range []netip.Addr{v4, v6} {
		old := Candidate{Node: "old", State: Leaving, OnLink: true, Claim: claim(Majority, 7)}
		heir := Candidate{Node: "heir", State: Alive, OnLink: true}
		role := func(self string) Role {
			r, _ := RoleOf(self, addr, Place{}, []Candidate{old, heir})
			return r
		}
		if role("old") != Retiring || role("heir") != Owner {
			t.Errorf("%s: before the claim: old %v, heir %v", addr, role("old"), role("heir"))
		}
		heir.Claim = claim(Majority, 8)
		if role("old") != Backup || role("heir") != Owner {
			t.Errorf("%s: after the claim: old %v, heir %v", addr, role("old"), role("heir"))
		}
		heir.State = Gone
		if role("old") != Owner {
			t.Errorf("%s: the heir died before old left: old %v", addr, role("old"))
		}
	}
}

func BenchmarkWinnerAmong300(b *testing.B) {
	nodes := cluster(300)
	nodes[17].Claim = claim(Majority, 3)
	b.ReportAllocs()
	for b.Loop() {
		Winner(v6, Place{}, nodes)
	}
}
