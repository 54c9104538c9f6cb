package election

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
)

// waiting is a Holdoff on a clock that a test sets.
type waiting struct {
	Holdoff
	now time.Time
}

// first checks whether an address is left to a node.
func (w *waiting) first(t *testing.T, a netip.Addr, node string, want bool) {
	t.Helper()
	w.Expire(w.now)
	if p := w.Place(a, Place{Node: node}); p.First != want {
		t.Errorf("%v: %v is left to %s: %v", w.now.Sub(time.Time{}), a, node, p.First)
	}
}

// last checks whose turn to claim an address comes last.
func (w *waiting) last(t *testing.T, a netip.Addr, want ...string) {
	t.Helper()
	w.Expire(w.now)
	if p := w.Place(a, Place{}); !slices.Equal(p.Last, want) {
		t.Errorf("%v: the last to have %v are %q, want %q", w.now.Sub(time.Time{}), a, p.Last, want)
	}
}

func TestANewAddressIsLeftToItsPlaceForAWhile(t *testing.T) {
	w := &waiting{}
	w.first(t, v4, "a", false)
	w.Leave(w.now, v4, "a")
	w.Leave(w.now, v6, "")
	w.first(t, v4, "a", true)
	w.first(t, v6, "", false)
	if at, ok := w.Due(); !ok || !at.Equal(w.now.Add(grace)) {
		t.Errorf("due %v, %v", at, ok)
	}
	w.now = w.now.Add(grace - 1)
	w.Leave(w.now, v4, "a") // known already
	w.first(t, v4, "a", true)
	w.last(t, v4)
	w.now = w.now.Add(1)
	if !w.Expire(w.now) || w.Expire(w.now) {
		t.Error("it ends once")
	}
	w.first(t, v4, "a", false)
	w.last(t, v4, "a")
	if _, ok := w.Due(); ok {
		t.Error("something is due")
	}
	w.Claimed(w.now, v4, "b")
	w.last(t, v4)
}

func TestANodeAtWorkIsWaitedFor(t *testing.T) {
	w := &waiting{}
	a := v6
	for range 100 {
		w.Leave(w.now, a, "a")
		a = a.Next()
	}
	for next := v6; next != a; next = next.Next() {
		w.now = w.now.Add(grace - 1)
		w.first(t, next, "a", true)
		w.Claimed(w.now, next, "a")
		w.first(t, next, "a", false)
	}
	if len(w.hosts)+len(w.waits) != 0 {
		t.Errorf("%v, %v are remembered", w.hosts, w.waits)
	}
}

// What another takes is no sign of life of the node that it was left to.
func TestOnlyItsOwnClaimsSpeakForANode(t *testing.T) {
	w := &waiting{}
	w.Leave(w.now, v4, "a")
	w.Leave(w.now, v6, "a")
	w.now = w.now.Add(grace - 1)
	w.Claimed(w.now, v4, "b")
	w.first(t, v6, "a", true)
	w.now = w.now.Add(1)
	w.first(t, v6, "a", false)
}

func TestAPlaceThatChangesIsFollowed(t *testing.T) {
	w := &waiting{}
	w.Leave(w.now, v4, "a")
	w.now = w.now.Add(grace)
	w.first(t, v4, "a", false)
	w.Leave(w.now, v4, "b")
	w.first(t, v4, "b", true)
	w.first(t, v4, "a", false)
	w.Leave(w.now, v4, "")
	w.first(t, v4, "b", false)
	if len(w.hosts)+len(w.waits) != 0 {
		t.Errorf("%v, %v are remembered", w.hosts, w.waits)
	}
}

// Of nodes that all believe that an address in service is another's, each is waited
// for once, and then nobody is.
func TestWhoIsWaitedForInVainIsPassedOver(t *testing.T) {
	for _, a := range []netip.Addr{v4, v6} {
		w := &waiting{}
		var candidates []Candidate
		for _, n := range []string{"a", "b", "c"} {
			candidates = append(candidates, Candidate{Node: n, State: Alive, OnLink: true})
		}
		w.Await(w.now, a, "a")
		w.first(t, a, "a", false) // it is awaited, and not before the others
		w.Claimed(w.now, a, "b")
		winner := func() string {
			n, _ := Winner(a, w.Place(a, Place{Failback: lb.FailbackNever}), candidates)
			return n
		}
		var order []string
		for range candidates {
			order = append(order, winner())
			for range 3 {
				w.Await(w.now, a, winner())
			}
			w.now = w.now.Add(grace - 1)
			w.Await(w.now, a, winner()) // still
			if w.Expire(w.now) {
				t.Errorf("%v: given up too soon", order)
			}
			w.now = w.now.Add(1)
			w.last(t, a, order...)
		}
		if sorted := slices.Sorted(slices.Values(order)); !slices.Equal(sorted, []string{"a", "b", "c"}) {
			t.Errorf("waited for %v", order)
		}
		if winner() != order[0] {
			t.Errorf("%s after all, want %s", winner(), order[0])
		}
		w.Await(w.now, a, winner())
		if at, ok := w.Due(); ok {
			t.Errorf("something is due at %v", at)
		}
		candidates[0].Claim = claim(Blind, 1)
		if winner() != "a" {
			t.Errorf("%s has what a claims", winner())
		}
		w.Claimed(w.now, a, "a")
		w.last(t, a)
	}
}

// Whatever is said in whatever order, what is counted is what is waited for.
func TestACourtesyForgetsAll(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 3))
		w := &waiting{}
		nodes := []string{"", "a", "b", "c"}
		addrs := []netip.Addr{v4, v4.Next(), v6, v6.Next()}
		for range 50 {
			a, n := addrs[r.IntN(len(addrs))], nodes[r.IntN(len(nodes))]
			switch r.IntN(5) {
			case 0, 1:
				w.Leave(w.now, a, n)
			case 2:
				w.Await(w.now, a, nodes[1+r.IntN(3)])
			case 3:
				w.Claimed(w.now, a, n)
			default:
				w.now = w.now.Add(time.Duration(r.Int64N(int64(grace))))
				w.Expire(w.now)
			}
			count := map[string]int{}
			for _, at := range w.waits {
				if at.node != "" {
					count[at.node]++
				}
			}
			if len(count) != len(w.hosts) {
				t.Fatalf("seed %d: %v, %v", seed, w.waits, w.hosts)
			}
			for node, h := range w.hosts {
				if h.addresses != count[node] {
					t.Fatalf("seed %d: %s: %d of %v", seed, node, h.addresses, w.waits)
				}
			}
		}
		w.Forget(func(netip.Addr) bool { return false })
		if len(w.waits)+len(w.hosts) != 0 {
			t.Fatalf("seed %d: %v, %v are remembered", seed, w.waits, w.hosts)
		}
	}
}

func TestOnlyWhoIsWaitedForMayBeWaitedForLonger(t *testing.T) {
	w := &waiting{}
	w.Leave(w.now, v4, "a")
	w.Leave(w.now, v6, "b")
	third := v6.Next()
	w.Leave(w.now, third, "a")
	var left []netip.Addr
	for a := range w.New {
		left = append(left, a)
	}
	if slices.SortFunc(left, netip.Addr.Compare); !slices.Equal(left, []netip.Addr{v4, v6, third}) {
		t.Errorf("left to their places are %v", left)
	}
	n := 0
	for range w.New {
		n++
		break
	}
	if n != 1 {
		t.Errorf("%d of one", n)
	}
	// B claims what is a's: that says nothing of a, nor gives b more time for its own.
	w.now = w.now.Add(grace / 2)
	w.Claimed(w.now, v4, "b")
	if at, ok := w.Due(); !ok || !at.Equal(w.now.Add(grace/2)) {
		t.Errorf("due %v, %v", at, ok)
	}
	// A claims what is its own: it gets as long again, and b does not.
	w.Leave(w.now, v4, "a")
	w.Claimed(w.now, v4, "a")
	for range 20 { // in whichever order the nodes come
		if at, ok := w.Due(); !ok || !at.Equal(w.now.Add(grace/2)) {
			t.Errorf("due %v, %v", at, ok)
		}
	}
	w.now = w.now.Add(grace / 2)
	w.first(t, v6, "b", false)
	w.first(t, third, "a", true)
	if at, ok := w.Due(); !ok || !at.Equal(w.now.Add(grace/2)) {
		t.Errorf("due %v, %v", at, ok)
	}
	// The place of an address that is left to a node is another one's by now.
	w.first(t, third, "b", false)
	// What is left to a node is not awaited of another, and one that had its turn
	// is not awaited again.
	w.Await(w.now, third, "c")
	w.first(t, third, "a", true)
	w.Await(w.now, v6, "b")
	w.last(t, v6, "b")
	w.Await(w.now, v6, "c")
	for a := range w.New {
		if a == v6 {
			t.Error("an address in service is none that is left to its place")
		}
	}
	w.Leave(w.now, v6, "c") // a new one again
	w.first(t, v6, "c", true)
	w.last(t, v6)
}
