package placement

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/lb"
)

// randomAddresses returns some addresses with the choice of some of some nodes,
// and a load.
func randomAddresses(rng *rand.Rand) (map[string]int, []Address) {
	var sets [][]Node
	for range 1 + rng.IntN(3) {
		var set []Node
		for i := range 8 {
			if rng.IntN(3) > 0 {
				set = append(set, Node{fmt.Sprint("n", i), 10 * rng.IntN(3), rng.IntN(5) == 0})
			}
		}
		sets = append(sets, set)
	}
	load := map[string]int{}
	for i := range rng.IntN(9) {
		load[fmt.Sprint("n", i)] = rng.IntN(5)
	}
	var addresses []Address
	v4, v6 := netip.MustParseAddr("192.0.2.0"), netip.MustParseAddr("2001:db8::")
	for range rng.IntN(40) {
		v4, v6 = v4.Next(), v6.Next()
		for _, ip := range []netip.Addr{v4, v6} {
			a := Address{
				Address: ip, Advertised: rng.IntN(9) > 0, InService: rng.IntN(4) == 0,
				Failback: lb.Failback(rng.IntN(2)), Nodes: sets[rng.IntN(len(sets))],
			}
			if rng.IntN(2) == 0 {
				a.Placed = fmt.Sprint("n", rng.IntN(10))
			}
			if rng.IntN(3) == 0 {
				for i := range a.Nodes {
					if rng.IntN(3) == 0 {
						a.Local = append(a.Local, i)
					}
				}
			}
			addresses = append(addresses, a)
		}
	}
	return load, addresses
}

func shuffled[T any](rng *rand.Rand, in []T) []T {
	out := slices.Clone(in)
	rng.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// record returns the addresses as they are once decisions are written.
func record(addresses []Address, decisions []Decision) []Address {
	place := map[netip.Addr]string{}
	for _, d := range decisions {
		place[d.Address] = d.Node
	}
	out := slices.Clone(addresses)
	for i := range out {
		if node, decided := place[out[i].Address]; decided {
			out[i].Placed = node
		}
	}
	return out
}

func TestTheOrderOfTheInputDoesNotMatter(t *testing.T) {
	for seed := range uint64(400) {
		rng := rand.New(rand.NewPCG(seed, 1))
		load, addresses := randomAddresses(rng)
		mixed := shuffled(rng, addresses)
		for i := range mixed { // nor does who shares a slice
			mixed[i].Nodes = slices.Clone(mixed[i].Nodes)
		}
		if a, b := Plan(load, addresses), Plan(load, mixed); !slices.Equal(a, b) {
			t.Fatalf("seed %d:\n%v\n%v", seed, a, b)
		}
		placed := record(addresses, Plan(load, addresses))
		if a, b := Rebalance(load, placed), Rebalance(load, record(mixed, Plan(load, mixed))); !slices.Equal(a, b) {
			t.Fatalf("seed %d:\n%v\n%v", seed, a, b)
		}
	}
}

func TestTheArgumentsAreNotChanged(t *testing.T) {
	for seed := range uint64(100) {
		load, addresses := randomAddresses(rand.New(rand.NewPCG(seed, 2)))
		sameLoad, same := randomAddresses(rand.New(rand.NewPCG(seed, 2)))
		Plan(load, addresses)
		Rebalance(load, addresses)
		if !reflect.DeepEqual(load, sameLoad) || !reflect.DeepEqual(addresses, same) {
			t.Fatalf("seed %d: changed", seed)
		}
	}
}

func TestASecondPlanChangesNothing(t *testing.T) {
	for seed := range uint64(400) {
		rng := rand.New(rand.NewPCG(seed, 3))
		load, addresses := randomAddresses(rng)
		addresses = record(addresses, Plan(load, addresses))
		for i, d := range Plan(load, addresses) {
			a := record(addresses, nil)
			slices.SortFunc(a, func(a, b Address) int { return a.Address.Compare(b.Address) })
			if d.Node != a[i].Placed || d.Reason > Kept {
				t.Fatalf("seed %d: %v, recorded on %q", seed, d, a[i].Placed)
			}
		}
	}
}

// best narrows the nodes of an address down to the best, one wish after the
// other; a wish that none fulfils is dropped.
func best(a Address) []int {
	nodes := make([]int, len(a.Nodes))
	for i := range nodes {
		nodes[i] = i
	}
	narrow := func(wish func(int) bool) {
		if some := slices.DeleteFunc(slices.Clone(nodes), func(i int) bool { return !wish(i) }); len(some) > 0 {
			nodes = some
		}
	}
	heavy := func() {
		most := 0
		for _, i := range nodes {
			most = max(most, a.Nodes[i].Weight)
		}
		narrow(func(i int) bool { return a.Nodes[i].Weight == most })
	}
	if a.Failback == lb.FailbackImmediate {
		heavy()
	}
	narrow(func(i int) bool { return !a.Nodes[i].NotReady })
	narrow(func(i int) bool { return slices.Contains(a.Local, i) })
	heavy()
	return nodes
}

// Every decision follows from what it is about alone, whatever the loads; they
// only choose among equals.
func TestEachPlaceIsPermittedAndItsReasonTrue(t *testing.T) {
	for seed := range uint64(400) {
		rng := rand.New(rand.NewPCG(seed, 4))
		load, addresses := randomAddresses(rng)
		slices.SortFunc(addresses, func(a, b Address) int { return a.Address.Compare(b.Address) })
		for i, d := range Plan(load, addresses) {
			a := addresses[i]
			at := slices.IndexFunc(a.Nodes, func(n Node) bool { return n.Name == d.Node })
			was := slices.IndexFunc(a.Nodes, func(n Node) bool { return n.Name == a.Placed })
			heaviest := 0
			for _, n := range a.Nodes {
				heaviest = max(heaviest, n.Weight)
			}
			chosen := func() bool { return at >= 0 && slices.Contains(best(a), at) }
			var ok bool
			switch d.Reason {
			case Unadvertised:
				ok = !a.Advertised && d.Node == ""
			case NoNode:
				ok = a.Advertised && len(a.Nodes) == 0 && d.Node == a.Placed
			case Kept:
				ok = at >= 0 && d.Node == a.Placed && (a.Failback == lb.FailbackNever || a.Nodes[at].Weight == heaviest)
			case New:
				ok = a.Placed == "" && !a.InService && chosen()
			case Adopted:
				ok = a.Placed == "" && a.InService && chosen()
			case Displaced:
				ok = a.Placed != "" && was < 0 && chosen()
			case Preferred:
				ok = a.Failback == lb.FailbackImmediate && was >= 0 && a.Nodes[was].Weight < heaviest && chosen()
			}
			if !ok {
				t.Fatalf("seed %d: %v, of %+v", seed, d, a)
			}
		}
	}
}

// equal returns n addresses of both families and the choice of m equal nodes.
func equal(n, m int) []Address {
	nodes := make([]Node, m)
	for i := range nodes {
		nodes[i] = Node{Name: fmt.Sprintf("node-%03d", i)}
	}
	addresses := make([]Address, 0, n)
	v4, v6 := netip.MustParseAddr("10.1.0.0"), netip.MustParseAddr("2001:db8::")
	for len(addresses) < n {
		v4, v6 = v4.Next(), v6.Next()
		addresses = append(addresses, Address{Address: v4, Advertised: true, Nodes: nodes}, Address{Address: v6, Advertised: true, Nodes: nodes})
	}
	return addresses[:n]
}

// spread returns the least and the greatest number of addresses on a node.
func spread(addresses []Address) (least, most int) {
	counts := map[string]int{}
	for _, a := range addresses {
		counts[a.Placed]++
	}
	least = len(addresses)
	for _, n := range addresses[0].Nodes {
		least, most = min(least, counts[n.Name]), max(most, counts[n.Name])
	}
	return least, most
}

func TestEqualNodesDifferByOneAtMost(t *testing.T) {
	for _, nodes := range []int{1, 2, 3, 7, 300} {
		for _, n := range []int{1, 2, 5, 100, 1001} {
			addresses := record(equal(n, nodes), Plan(nil, equal(n, nodes)))
			if least, most := spread(addresses); most-least > 1 {
				t.Errorf("%d addresses on %d nodes: from %d to %d", n, nodes, least, most)
			}
		}
	}
}

// without returns the addresses without a node.
func without(addresses []Address, name string) []Address {
	nodes := slices.DeleteFunc(slices.Clone(addresses[0].Nodes), func(n Node) bool { return n.Name == name })
	out := slices.Clone(addresses)
	for i := range out {
		out[i].Nodes, out[i].InService = nodes, true
	}
	return out
}

func TestALostNodeMovesItsOwnAddressesEvenly(t *testing.T) {
	for _, nodes := range []int{2, 3, 10, 100} {
		addresses := record(equal(1000, nodes), Plan(nil, equal(1000, nodes)))
		for _, lost := range []string{"node-000", "node-001"} {
			rest := without(addresses, lost)
			after := record(rest, Plan(nil, rest))
			for i := range after {
				if moved := after[i].Placed != addresses[i].Placed; moved != (addresses[i].Placed == lost) {
					t.Errorf("%d nodes: %s is lost, and %v goes from %s to %s", nodes, lost, after[i].Address, addresses[i].Placed, after[i].Placed)
				}
			}
			if least, most := spread(after); most-least > 1 {
				t.Errorf("%d nodes, one lost: from %d to %d", nodes, least, most)
			}
		}
	}
}

func TestANodeThatJoinsMovesNothing(t *testing.T) {
	all := equal(1000, 10)
	addresses := without(all, "node-004")
	addresses = record(addresses, Plan(nil, addresses))
	for i := range addresses {
		addresses[i].Nodes = all[0].Nodes
	}
	for _, d := range Plan(nil, addresses) {
		if d.Reason != Kept {
			t.Errorf("%v", d)
		}
	}
}

// Most of what a drained node leaves is placed where the speakers have taken it
// by themselves.
func TestDisplacedAddressesMostlyStayWhereTheSpeakersTookThem(t *testing.T) {
	addresses := record(equal(2000, 10), Plan(nil, equal(2000, 10)))
	rest := without(addresses, "node-003")
	names := make([]string, 0, 9)
	for _, n := range rest[0].Nodes {
		names = append(names, n.Name)
	}
	same, displaced := 0, 0
	for _, d := range Plan(nil, rest) {
		if d.Reason == Displaced {
			displaced++
			if d.Node == election.First(d.Address, names) {
				same++
			}
		}
	}
	if displaced != 200 || same < displaced*3/4 {
		t.Errorf("of %d displaced addresses, %d stay where the election has them", displaced, same)
	}
}

// Rebalancing ends, never takes a place that is not permitted, and brings equal
// nodes within one of each other by the fewest moves.
func TestRebalancingEndsEven(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 5))
		addresses := equal(1+rng.IntN(200), 2+rng.IntN(9))
		nodes := addresses[0].Nodes
		counts := make([]int, len(nodes))
		for i := range addresses {
			n := rng.IntN(1 + rng.IntN(len(nodes)))
			addresses[i].Placed = nodes[n].Name
			counts[n]++
		}
		moves := Rebalance(nil, addresses)
		after := record(addresses, moves)
		if least, most := spread(after); most-least > 1 {
			t.Fatalf("seed %d: from %d to %d", seed, least, most)
		}
		// The fewest: whatever a node has above its share, the larger shares
		// going to those that have most.
		slices.SortFunc(counts, func(a, b int) int { return b - a })
		fewest := 0
		for i, c := range counts {
			share := len(addresses) / len(nodes)
			if i < len(addresses)%len(nodes) {
				share++
			}
			fewest += max(0, c-share)
		}
		if len(moves) != fewest {
			t.Fatalf("seed %d: %d moves where %d do", seed, len(moves), fewest)
		}
		if again := Rebalance(nil, after); len(again) > 0 {
			t.Fatalf("seed %d: afterwards %v", seed, again)
		}
	}
}

func TestRebalancingRandomAddressesIsPermittedAndEnds(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 6))
		load, addresses := randomAddresses(rng)
		addresses = record(addresses, Plan(load, addresses))
		for round := 0; ; round++ {
			moves := Rebalance(load, addresses)
			if len(moves) == 0 {
				break
			}
			if round > len(addresses) {
				t.Fatalf("seed %d: does not end: %v", seed, moves)
			}
			addresses = record(addresses, moves[:1+rng.IntN(len(moves))])
			for _, d := range Plan(load, addresses) {
				if d.Reason > Kept {
					t.Fatalf("seed %d: %v after %v", seed, d, moves)
				}
			}
		}
	}
}

// The moves that are made in small steps are no more than those made at once.
func TestStepsHonorATokenOnce(t *testing.T) {
	addresses := equal(100, 4)
	for i := range addresses {
		addresses[i].Placed = "node-000"
	}
	var p Progress
	made, steps := 0, 0
	for {
		moves := Rebalance(nil, addresses)
		next, n := p.Step("now", len(moves), 7)
		if n > 7 {
			t.Fatalf("%d moves in one step", n)
		}
		p = next
		if n == 0 {
			break
		}
		addresses = record(addresses, moves[:n])
		made += n
		steps++
	}
	if made != 75 || steps != 11 || p != (Progress{"now", 0}) {
		t.Errorf("%d moves in %d steps, %v", made, steps, p)
	}
	if p, n := p.Step("now", 5, 7); n != 0 || p != (Progress{"now", 0}) {
		t.Errorf("honored again: %d, %v", n, p)
	}
	if p, n := (Progress{"old", 3}).Step("", 5, 7); n != 0 || p != (Progress{"old", 3}) {
		t.Errorf("unasked: %d, %v", n, p)
	}
	if p, n := (Progress{"old", 3}).Step("new", 5, 2); n != 2 || p != (Progress{"new", 3}) {
		t.Errorf("a new token meanwhile: %d, %v", n, p)
	}
	if p, n := (Progress{}).Step("even", 0, 2); n != 0 || p != (Progress{"even", 0}) {
		t.Errorf("nothing to do: %d, %v", n, p)
	}
}

func BenchmarkPlan(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		fresh := equal(n, 300)
		placed := record(fresh, Plan(nil, fresh))
		b.Run(fmt.Sprintf("new/%d", n), func(b *testing.B) {
			for b.Loop() {
				Plan(nil, fresh)
			}
		})
		b.Run(fmt.Sprintf("kept/%d", n), func(b *testing.B) {
			for b.Loop() {
				Plan(nil, placed)
			}
		})
		b.Run(fmt.Sprintf("node lost/%d", n), func(b *testing.B) {
			rest := without(placed, "node-007")
			for b.Loop() {
				Plan(nil, rest)
			}
		})
	}
}

func BenchmarkRebalance(b *testing.B) {
	addresses := equal(10000, 300)
	for i := range addresses {
		addresses[i].Placed = addresses[i].Nodes[i%100].Name
	}
	for b.Loop() {
		Rebalance(nil, addresses)
	}
}
