package controller

import (
	"net/netip"
	"testing"

	"github.com/belfrylb/belfry/internal/allocator"
	"github.com/belfrylb/belfry/internal/lb"
)

// Two Services share an address. Somebody moves it by writing to one of them
// while what we wrote to the other before has not been seen yet.
func TestAnOwnWriteThatIsSeenLateMovesNothing(t *testing.T) {
	for _, a := range []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")} {
		at := func(node string) lb.Service {
			return lb.Service{Assigned: []netip.Addr{a}, Placed: []string{node}}
		}
		l := newLoop(&Controller{newPlanner: func() planner { return allocator.New() }})
		l.holders[a] = []lb.ServiceKey{{Name: "one"}, {Name: "two"}}
		l.places.set(a, "node1")
		was := records{Assigned: []netip.Addr{a}, Placed: []string{"node1"}}
		one, two := &service{seen: was}, &service{wrote: was}

		l.replaced(one, at("node2"))
		l.replaced(two, at("node1"))
		if got := l.places.of[a]; got != "node2" {
			t.Errorf("%v: our own write took it back to %s", a, got)
		}
		// Once that is done, the same place can be chosen by somebody else.
		two.wrote = records{}
		l.replaced(two, at("node2"))
		l.replaced(two, at("node1"))
		if got := l.places.of[a]; got != "node1" {
			t.Errorf("%v: it stays on %s", a, got)
		}
	}
}
