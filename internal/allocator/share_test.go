package allocator

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
)

// Some share an address. One of them is edited so that it cannot share it any more,
// and perhaps the controller is another one from then on.
func TestABystanderNeverLosesASharedAddress(t *testing.T) {
	edits := map[string]func(s, other *lb.Service){
		"a port of another": func(s, o *lb.Service) { s.Ports = append(slices.Clone(s.Ports), o.Ports[0]) },
		"another key":       func(s, _ *lb.Service) { s.Request.SharingKey = "mine" },
		"no key":            func(s, _ *lb.Service) { s.Request.SharingKey = "" },
		"Local":             func(s, _ *lb.Service) { s.TrafficPolicy = lb.TrafficLocal },
		"other Pods":        func(s, _ *lb.Service) { s.PodSelector = "app=other" },
	}
	for name, edit := range edits {
		for _, family := range families {
			for seed := range uint64(20) {
				g := gen{rand.New(rand.NewPCG(seed, 7))}
				pool := simplePool("edge", "198.51.100.0/30", "2001:db8::/126")
				pool.SharedAcrossNamespaces = true
				if seed%2 == 0 {
					pool.Ranges = []lb.AddressRange{rangeOf("198.51.100.0/32"), rangeOf("2001:db8::/128")}
				}
				w := World{Pools: []lb.Pool{pool}, Now: epoch}
				for i := range 4 {
					s := simpleServiceOf(family, i)
					s.Key.Namespace = pickOf(g, "web", "db")
					s.Created = epoch.Add(time.Duration(g.IntN(3)) * time.Minute)
					s.Request.SharingKey, s.Ports[0].Number = "k", uint16(80+i)
					if name == "other Pods" {
						s.TrafficPolicy = lb.TrafficLocal
					}
					w.Services = append(w.Services, s)
				}
				p := New()
				p.SetPools(w.Pools)
				carryOut(p, w.Services, w.Services...)
				shared := w.Services[0].Assigned
				edited := g.IntN(len(w.Services))
				edit(&w.Services[edited], &w.Services[(edited+1)%len(w.Services)])
				if g.one(50) {
					p = New()
					p.SetPools(w.Pools)
					carryOut(p, w.Services, w.Services...)
				} else {
					carryOut(p, w.Services, w.Services[edited])
				}
				for i, s := range w.Services {
					if holds := slices.Equal(s.Assigned, shared); len(shared) != 1 || holds == (i == edited) {
						t.Errorf("%s, seed %d: %v held %v; %v was edited; it holds %v", name, seed, s.Key, shared, w.Services[edited].Key, s.Assigned)
					}
				}
			}
		}
	}
}

// carryOut tells a planner of some Services, and carries out what it decides until
// nothing changes.
func carryOut(p *Planner, services []lb.Service, news ...lb.Service) {
	for _, s := range news {
		p.Put(s)
	}
	for changed := true; changed; {
		changed = false
		for _, d := range p.Plan(epoch).Services {
			i := slices.IndexFunc(services, func(s lb.Service) bool { return s.Key == d.Service })
			if d.Changes(services[i]) {
				services[i], changed = d.Apply(services[i]), true
				p.Put(services[i])
			}
		}
	}
}

// An edit that breaks nothing is nobody's loss, not even when a later one of
// another does.
func TestTheLastToEditLosesASharedAddress(t *testing.T) {
	services := []lb.Service{simpleService(0), simpleService(1)}
	for i := range services {
		services[i].Request.SharingKey, services[i].Ports[0].Number = "k", uint16(80+i)
	}
	p := New()
	p.SetPools([]lb.Pool{simplePool("edge", "198.51.100.0/30")})
	carryOut(p, services, services...)
	services[1].Ports = append(services[1].Ports, lb.Port{Protocol: lb.TCP, Number: 443})
	carryOut(p, services, services[1])
	services[0].Ports = append(services[0].Ports, lb.Port{Protocol: lb.TCP, Number: 443})
	carryOut(p, services, services[0])
	for i, want := range []string{"[198.51.100.1]", "[198.51.100.0]"} {
		if got := fmt.Sprint(services[i].Assigned); got != want {
			t.Errorf("%v holds %s, want %s", services[i].Key, got, want)
		}
	}
}

// Only the terms on which it shares are recorded, in whatever order the API server
// has the ports.
func TestTermsAreWhatSharingDependsOn(t *testing.T) {
	base := simpleService(0)
	base.Request.SharingKey = "k"
	base.Ports = []lb.Port{{Protocol: lb.TCP, Number: 80}, {Protocol: lb.UDP, Number: 53}}
	for name, c := range map[string]struct {
		change func(*lb.Service)
		same   bool
	}{
		"nothing":          {func(*lb.Service) {}, true},
		"ports turned":     {func(s *lb.Service) { s.Ports = []lb.Port{s.Ports[1], s.Ports[0]} }, true},
		"labels":           {func(s *lb.Service) { s.Labels = "a=b" }, true},
		"an address":       {func(s *lb.Service) { s.Assigned = []netip.Addr{netip.MustParseAddr("2001:db8::1")} }, true},
		"Pods, Cluster":    {func(s *lb.Service) { s.PodSelector = "app=x" }, true},
		"key":              {func(s *lb.Service) { s.Request.SharingKey = "l" }, false},
		"protocol":         {func(s *lb.Service) { s.Ports = []lb.Port{{Protocol: lb.UDP, Number: 80}, s.Ports[1]} }, false},
		"a port less":      {func(s *lb.Service) { s.Ports = s.Ports[:1] }, false},
		"Local":            {func(s *lb.Service) { s.TrafficPolicy = lb.TrafficLocal }, false},
		"Local with Pods":  {func(s *lb.Service) { s.TrafficPolicy, s.PodSelector = lb.TrafficLocal, "app=x" }, false},
		"key with a space": {func(s *lb.Service) { s.Request.SharingKey = "k Cluster" }, false},
	} {
		s := base
		s.Ports = slices.Clone(base.Ports)
		c.change(&s)
		if got := terms(&s) == terms(&base); got != c.same {
			t.Errorf("%s: the same terms is %v", name, got)
		}
	}
	base.Request.SharingKey = ""
	if terms(&base) != "" {
		t.Error("a Service without a key has terms")
	}
}
