package placement

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/belfrylb/belfry/internal/lb"
)

func TestObjectsToANodeThatWouldNotKeepTheAddress(t *testing.T) {
	nodes := []Node{{Name: "node1", Weight: 50}, {Name: "node2"}, {Name: "node3", NotReady: true, Weight: 50}}
	for _, a := range []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")} {
		for _, c := range []struct {
			what, node, want string
			failback         lb.Failback
			unadvertised     bool
		}{
			{what: "one of the best", node: "node1"},
			{what: "one that is not ready is asked for by name", node: "node3"},
			{what: "a lighter one, where it stays", node: "node2"},
			{what: "a lighter one that it would leave at once", node: "node2", failback: lb.FailbackImmediate, want: "would not stay on node2"},
			{what: "one of the best, failing back", node: "node3", failback: lb.FailbackImmediate},
			{what: "no node", node: "node4", want: "may not be announced by node4"},
			{what: "nothing", node: "", want: "may not be announced by"},
			{what: "no layer 2", node: "node1", unadvertised: true, want: "is selected by no L2Advertisement"},
		} {
			address := Address{Address: a, Placed: "node1", Failback: c.failback, Advertised: !c.unadvertised, Nodes: nodes}
			if c.unadvertised {
				address.Nodes = nil
			}
			got := address.Objects(c.node)
			if (got == "") != (c.want == "") || !strings.HasPrefix(got, c.want) {
				t.Errorf("%v, %s: %q, want %q", a, c.what, got, c.want)
			}
			if got != "" || c.unadvertised {
				continue
			}
			// What it does not object to stays.
			address.Placed = c.node
			if d := Plan(map[string]int{}, []Address{address})[0]; d.Node != c.node || d.Reason != Kept {
				t.Errorf("%v, %s: placed again on %+v", a, c.what, d)
			}
		}
	}
}
