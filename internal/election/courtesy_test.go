package election

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

// wait is a Courtesy on a clock that a test sets.
type wait struct {
	Courtesy
	now time.Time
}

func (w *wait) leaves(t *testing.T, a netip.Addr, want bool) {
	t.Helper()
	w.Expire(w.now)
	if (w.Turn(a) == First) != want {
		t.Errorf("%v: %v is left: %v", w.now.Sub(time.Time{}), a, !want)
	}
}

func TestANewAddressIsLeftToItsPlaceForAWhile(t *testing.T) {
	w := &wait{}
	w.leaves(t, v4, false)
	w.Leave(w.now, v4, "a")
	w.Leave(w.now, v6, "")
	w.leaves(t, v4, true)
	w.leaves(t, v6, false)
	if at, ok := w.Due(); !ok || !at.Equal(w.now.Add(grace)) {
		t.Errorf("due %v, %v", at, ok)
	}
	w.now = w.now.Add(grace - 1)
	w.leaves(t, v4, true)
	w.Leave(w.now, v4, "a") // known already
	w.now = w.now.Add(1)
	if !w.Expire(w.now) || w.Expire(w.now) {
		t.Error("it ends once")
	}
	w.leaves(t, v4, false)
	if _, ok := w.Due(); ok {
		t.Error("something is due")
	}
	// One that did not take the first gets no time for the second, until it takes one.
	w.Leave(w.now, v6, "a")
	w.leaves(t, v6, false)
	w.Claimed(w.now, v4, "a")
	w.leaves(t, v6, true)
	w.Claimed(w.now, v6, "b") // who knew nothing of it
	w.leaves(t, v6, false)
}

func TestANodeAtWorkIsWaitedFor(t *testing.T) {
	w := &wait{}
	a := v6
	for range 100 {
		w.Leave(w.now, a, "a")
		a = a.Next()
	}
	for next := v6; next != a; next = next.Next() {
		w.now = w.now.Add(grace - 1)
		w.leaves(t, next, true)
		w.Claimed(w.now, next, "a")
		w.leaves(t, next, false)
	}
	if len(w.hosts)+len(w.left) != 0 {
		t.Errorf("%v, %v are remembered", w.hosts, w.left)
	}
}

// What another takes is no sign of life of the node that it was left to.
func TestOnlyItsOwnClaimsSpeakForANode(t *testing.T) {
	w := &wait{}
	w.Leave(w.now, v4, "a")
	w.Leave(w.now, v6, "a")
	w.now = w.now.Add(grace - 1)
	w.Claimed(w.now, v4, "b")
	w.leaves(t, v6, true)
	w.now = w.now.Add(1)
	w.leaves(t, v6, false)
}

func TestAPlaceThatChangesIsFollowed(t *testing.T) {
	w := &wait{}
	w.Leave(w.now, v4, "a")
	w.now = w.now.Add(grace)
	w.leaves(t, v4, false)
	w.Leave(w.now, v4, "b")
	w.leaves(t, v4, true)
	w.Leave(w.now, v4, "")
	w.leaves(t, v4, false)
	if len(w.hosts)+len(w.left) != 0 {
		t.Errorf("%v, %v are remembered", w.hosts, w.left)
	}
}

// Whatever is said in whatever order, what is counted is what is left.
func TestACourtesyForgetsAll(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 3))
		w := &wait{}
		nodes := []string{"", "a", "b", "c"}
		addrs := []netip.Addr{v4, v4.Next(), v6, v6.Next()}
		for range 50 {
			a, n := addrs[r.IntN(len(addrs))], nodes[r.IntN(len(nodes))]
			switch r.IntN(4) {
			case 0, 1:
				w.Leave(w.now, a, n)
			case 2:
				w.Claimed(w.now, a, n)
			default:
				w.now = w.now.Add(time.Duration(r.Int64N(int64(grace))))
				w.Expire(w.now)
			}
			count := map[string]int{}
			for _, node := range maps.Collect(w.Places) {
				count[node]++
			}
			if len(count) != len(w.hosts) {
				t.Fatalf("seed %d: %v, %v", seed, w.left, w.hosts)
			}
			for node, h := range w.hosts {
				if h.addresses != count[node] {
					t.Fatalf("seed %d: %s: %d of %v", seed, node, h.addresses, w.left)
				}
			}
		}
	}
}
