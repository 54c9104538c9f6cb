package docs

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/allocator"
	"github.com/belfrylb/belfry/internal/lb"
)

var now = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)

func addresses(list ...string) []netip.Addr {
	var all []netip.Addr
	for _, a := range list {
		all = append(all, netip.MustParseAddr(a))
	}
	return all
}

// pool is open to all; its ranges are "first-last".
func pool(name string, ranges ...string) lb.Pool {
	p := lb.Pool{Name: name, Created: now, AutoAssign: true}
	for _, r := range ranges {
		first, last, _ := strings.Cut(r, "-")
		p.Ranges = append(p.Ranges, lb.AddressRange{First: netip.MustParseAddr(first), Last: netip.MustParseAddr(last)})
	}
	return p
}

func with(p lb.Pool, change func(*lb.Pool)) lb.Pool {
	change(&p)
	return p
}

// older holds the first address of pool edge; web asks for one.
var (
	older = lb.Service{
		Key: lb.ServiceKey{Namespace: "shop", Name: "older"}, Created: now, Families: []lb.Family{lb.IPv4},
		Ports: []lb.Port{{Protocol: lb.TCP, Number: 80}}, Assigned: addresses("203.0.113.1"), AssignedPools: []string{"edge"},
	}
	web = lb.Service{
		Key: lb.ServiceKey{Namespace: "shop", Name: "web"}, Created: now.Add(time.Minute), Families: []lb.Family{lb.IPv4},
		Ports: []lb.Port{{Protocol: lb.TCP, Number: 80}},
	}
)

func asking(change func(*lb.Service)) lb.Service {
	s := web
	change(&s)
	return s
}

// The messages that the pages quote are those that the allocator composes.
func TestQuotedMessagesAreWhatTheAllocatorSays(t *testing.T) {
	edge := pool("edge", "203.0.113.0-203.0.113.9")
	restricted := with(pool("lab", "198.51.100.0-198.51.100.9"), func(p *lb.Pool) {
		p.Allocation = &lb.ServiceAllocation{Namespaces: []string{"lab"}}
	})
	precious := with(pool("precious", "192.0.2.1-192.0.2.2"), func(p *lb.Pool) { p.AutoAssign = false })
	request := func(address string) lb.Service {
		return asking(func(s *lb.Service) { s.Request.Addresses = addresses(address) })
	}
	page := pages(t)["how-to/pending.md"]
	for _, c := range []struct {
		name  string
		world allocator.World
		want  allocator.Reason
	}{
		{"exhausted", allocator.World{
			Pools: []lb.Pool{pool("edge", "203.0.113.1-203.0.113.2"), restricted},
			Services: []lb.Service{older, web, asking(func(s *lb.Service) {
				s.Key.Name, s.Created = "second", now
			})},
		}, allocator.Exhausted},
		{"limit", allocator.World{
			Pools:    []lb.Pool{with(edge, func(p *lb.Pool) { p.Allocation = &lb.ServiceAllocation{PerNamespaceLimit: 2} })},
			Services: []lb.Service{older, web, asking(func(s *lb.Service) { s.Key.Name, s.Created = "second", now })},
		}, allocator.LimitReached},
		{"draining", allocator.World{
			Pools: []lb.Pool{with(edge, func(p *lb.Pool) { p.Drain = true })}, Services: []lb.Service{web},
		}, allocator.Draining},
		{"family", allocator.World{
			Pools: []lb.Pool{edge}, Services: []lb.Service{asking(func(s *lb.Service) { s.Families = []lb.Family{lb.IPv6} })},
		}, allocator.FamilyUnavailable},
		{"no pool", allocator.World{
			Pools: []lb.Pool{restricted, precious}, Services: []lb.Service{web},
		}, allocator.NoPool},
		{"pool not found", allocator.World{
			Pools: []lb.Pool{edge}, Services: []lb.Service{asking(func(s *lb.Service) { s.Request.Pool = "egde" })},
		}, allocator.PoolNotFound},
		{"not permitted", allocator.World{
			Pools: []lb.Pool{restricted}, Services: []lb.Service{asking(func(s *lb.Service) { s.Request.Pool = "lab" })},
		}, allocator.NotPermitted},
		{"in no pool", allocator.World{
			Pools: []lb.Pool{edge}, Services: []lb.Service{request("192.0.2.9")},
		}, allocator.AddressNotInPool},
		{"in another pool", allocator.World{
			Pools: []lb.Pool{edge, pool("lab", "198.51.100.0-198.51.100.9")},
			Services: []lb.Service{asking(func(s *lb.Service) {
				s.Request.Addresses, s.Request.Pool = addresses("203.0.113.1"), "lab"
			})},
		}, allocator.AddressNotInPool},
		{"buggy", allocator.World{
			Pools: []lb.Pool{with(edge, func(p *lb.Pool) { p.AvoidBuggyIPs = true })}, Services: []lb.Service{request("203.0.113.0")},
		}, allocator.AddressNotInPool},
		{"in use", allocator.World{
			Pools: []lb.Pool{edge}, Services: []lb.Service{older, request("203.0.113.1")},
		}, allocator.AddressInUse},
		{"reserved", allocator.World{
			Pools: []lb.Pool{with(edge, func(p *lb.Pool) {
				p.Retention = 2 * time.Hour
				p.Freed = []lb.FreedAddress{{
					Address: netip.MustParseAddr("203.0.113.1"), Service: lb.ServiceKey{Namespace: "shop", Name: "gone"}, At: now.Add(-time.Hour),
				}}
			})},
			Services: []lb.Service{request("203.0.113.1")},
		}, allocator.AddressReserved},
		{"node", allocator.World{
			Pools: []lb.Pool{edge}, Nodes: []lb.Node{{Name: "node1", Addresses: addresses("203.0.113.1")}},
			Services: []lb.Service{request("203.0.113.1")},
		}, allocator.NodeAddress},
		{"sharing", allocator.World{
			Pools: []lb.Pool{edge},
			Services: []lb.Service{
				func() lb.Service { s := older; s.Request.SharingKey = "k"; return s }(),
				asking(func(s *lb.Service) { s.Request.Addresses, s.Request.SharingKey = addresses("203.0.113.1"), "k" }),
			},
		}, allocator.SharingConflict},
		{"bad request", allocator.World{
			Pools: []lb.Pool{edge}, Services: []lb.Service{request("2001:db8::9")},
		}, allocator.BadRequest},
		{"cluster IP", allocator.World{
			Pools: []lb.Pool{edge}, Services: []lb.Service{asking(func(s *lb.Service) { s.Families = nil })},
		}, allocator.WaitingForClusterIP},
		{"partial", allocator.World{
			Pools: []lb.Pool{pool("edge", "203.0.113.1-203.0.113.2")},
			Services: []lb.Service{asking(func(s *lb.Service) {
				s.Families, s.FamilyPolicy = []lb.Family{lb.IPv4, lb.IPv6}, lb.PreferDualStack
			})},
		}, allocator.PartialDualStack},
		{"headless", allocator.World{
			Pools: []lb.Pool{edge}, Services: []lb.Service{asking(func(s *lb.Service) { s.Headless = true })},
		}, allocator.Headless},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.world.Now = now
			for _, d := range allocator.Plan(c.world).Services {
				if d.Service != web.Key {
					continue
				}
				if d.Reason != c.want {
					t.Errorf("the reason is %v, want %v (%s)", d.Reason, c.want, d.Sentence())
				}
				if said := section(t, page, c.want.String()); !strings.Contains(said, "\n> "+d.Sentence()+"\n") {
					t.Errorf("under %s how-to/pending.md does not quote\n%s", c.want, d.Sentence())
				}
				return
			}
			t.Error("nothing is decided")
		})
	}
}
