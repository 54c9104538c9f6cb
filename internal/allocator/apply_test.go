package allocator

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/belfrylb/belfry/internal/lb"
)

// Whatever a Service gives up or gets, what it keeps stays where it is placed.
func TestAnAddressThatIsKeptKeepsItsPlace(t *testing.T) {
	four, six, new4 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("192.0.2.2")
	is := lb.Service{Assigned: []netip.Addr{four, six}, Placed: []string{"node1", "node2"}}
	for _, c := range []struct {
		assigned []netip.Addr
		placed   []string
	}{
		{[]netip.Addr{four, six}, []string{"node1", "node2"}},
		{[]netip.Addr{six, four}, []string{"node2", "node1"}},
		{[]netip.Addr{six}, []string{"node2"}},
		{[]netip.Addr{new4, six}, []string{"", "node2"}},
		{nil, nil},
	} {
		var d Decision
		for _, a := range c.assigned {
			d.Assignments = append(d.Assignments, Assignment{Address: a, Pool: "edge"})
		}
		if got := d.Apply(is); !slices.Equal(got.Assigned, c.assigned) || !slices.Equal(got.Placed, c.placed) {
			t.Errorf("%v are placed on %q, want %q", got.Assigned, got.Placed, c.placed)
		}
	}
	if !slices.Equal(is.Placed, []string{"node1", "node2"}) {
		t.Errorf("the Service itself is changed: %q", is.Placed)
	}
}
