package allocator

import (
	"net/netip"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
)

// What was decided and is not written yet stays promised when the pools are edited: the
// write may land at any time, and an older Service that comes meanwhile gets another
// address.
func TestAPromiseOutlivesAnEditOfThePools(t *testing.T) {
	for f, want := range map[lb.Family][2]string{lb.IPv4: {"198.51.100.0", "198.51.100.9"}, lb.IPv6: {"2001:db8::", "2001:db8::9"}} {
		edge, other := simplePool("edge", "198.51.100.0/32", "2001:db8::/128"), simplePool("other", "198.51.100.9/32", "2001:db8::9/128")
		p := New()
		p.SetPools([]lb.Pool{edge})
		young, old := simpleServiceOf(f, 1), simpleServiceOf(f, 2)
		old.Created = young.Created.Add(-time.Hour)
		holds := func(key lb.ServiceKey, want string) {
			t.Helper()
			if d := p.services[key].decision; len(d.Assignments) != 1 || d.Assignments[0].Address != netip.MustParseAddr(want) {
				t.Errorf("%v: %v holds %v, want %s", f, key, d.Assignments, want)
			}
		}
		p.Put(young)
		p.Plan(epoch)
		holds(young.Key, want[0])
		p.SetPools([]lb.Pool{edge, other})
		p.Put(old)
		p.Plan(epoch)
		holds(young.Key, want[0])
		holds(old.Key, want[1])
	}
}

// An address that is reserved for a Service returns to it where its namespace may have one
// more, and no other.
func TestAReservedAddressReturnsAsTheLastThatALimitAllows(t *testing.T) {
	for f, want := range map[lb.Family]string{lb.IPv4: "198.51.100.0", lb.IPv6: "2001:db8::"} {
		pool := simplePool("edge", "198.51.100.0/31", "2001:db8::/127")
		pool.Strategy, pool.Retention = lb.FirstFree, time.Hour
		pool.Allocation = &lb.ServiceAllocation{PerNamespaceLimit: 1}
		p := New()
		p.SetPools([]lb.Pool{pool})
		services := []lb.Service{simpleServiceOf(f, 1)}
		carryOut(p, services, services...)
		p.Delete(services[0].Key)
		p.Plan(epoch)
		again := simpleServiceOf(f, 1)
		again.UID = "another"
		p.Put(again)
		if d := p.Plan(epoch).Services[0]; len(d.Assignments) != 1 || d.Assignments[0].Address != netip.MustParseAddr(want) {
			t.Errorf("%v: it holds %v, want %s", f, d.Assignments, want)
		}
	}
}
