package gobgp

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/lb"
)

var fast = lb.BFDProfile{Name: "fast", Receive: 100 * time.Millisecond, Transmit: 100 * time.Millisecond, DetectMultiplier: 3, MinimumTTL: 250}

// cutBFD drops BFD packets from a source in a router's namespace, and leaves the
// rest alone. What it returns mends that.
func cutBFD(t *testing.T, ns namespace, source netip.Addr) (mend func()) {
	t.Helper()
	need(t, "nft")
	family := "ip"
	if source.Is6() {
		family = "ip6"
	}
	table := "cut" + strings.NewReplacer(".", "_", ":", "_").Replace(source.String())
	for _, rule := range []string{
		"add table inet " + table,
		"add chain inet " + table + " in { type filter hook input priority 0; }",
		fmt.Sprintf("add rule inet %s in %s saddr %s udp dport { 3784, 4784 } drop", table, family, source),
	} {
		if err := run(ns.args("nft", rule)...); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		if err := run(ns.args("nft", "delete table inet "+table)...); err != nil {
			t.Fatal(err)
		}
	}
}

// seesUp waits until a session has BFD up.
func (s *speaker) seesUp(t *testing.T, name string) {
	t.Helper()
	eventually(t, 10*time.Second, func() (bool, any) {
		v := s.view(name)
		return v.State == bgp.Established && v.BFD == "Up", fmt.Sprintf("%s BFD %s %s", show(v), v.BFD, v.BFDFault)
	})
}

func TestBFDTakesASessionDownWithItsPath(t *testing.T) {
	t.Parallel()
	f, b := needFRR(t), needBIRD(t)
	// One speaker: a node has BFD's ports once.
	s := speak(t)
	t.Run("out of service", func(t *testing.T) { outOfService(t, f, s) })
	for _, c := range []struct {
		router, family string
		as             uint32
		multihop       bool
	}{
		{"frr", "ipv4", 65000, false},
		{"frr", "ipv6", 65000, false},
		{"frr", "ipv4", 65000, true},
		{"frr", "ipv6", frrAS, false},
		{"bird", "ipv4", 65000, false},
		{"bird", "ipv6", 65000, false},
	} {
		name := fmt.Sprintf("%s %s as %d", c.router, c.family, c.as)
		if c.multihop {
			name += " multihop"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var p lb.BGPPeer
			var ns namespace
			if c.router == "frr" {
				lines := []string{"NEIGHBOR bfd 3 100 100"}
				if c.multihop {
					lines = append(lines, "NEIGHBOR ebgp-multihop 5")
				}
				p, ns = f.neighbor(t, f.source(c.family), c.as, lines...), f.ns
				p.EBGPMultiHop = c.multihop
			} else {
				p, ns = b.neighbor(t, c.family, c.as, c.family+" { import all; export none; };", "bfd on;"), b.ns
			}
			prefix := map[string]string{"ipv4": "198.51.109.1/32", "ipv6": "2001:db8:109::1/128"}[c.family]
			p.BFD = &fast
			// The hold timer would take long.
			p.HoldTime = 60 * time.Second
			s.sayToo(p, route(prefix))
			s.seesUp(t, p.Name)

			before := s.view(p.Name).Counters
			mend := cutBFD(t, ns, p.Source)
			start := time.Now()
			eventually(t, 5*time.Second, func() (bool, any) {
				v := s.view(p.Name)
				return v.Counters.Flaps > before.Flaps && v.State != bgp.Established, show(v)
			})
			t.Logf("down %v after the cut: %s", time.Since(start), show(s.view(p.Name)))
			mend()
			s.seesUp(t, p.Name)
			if v := s.view(p.Name); v.Counters.Established <= before.Established {
				t.Errorf("%s %+v", show(v), v.Counters)
			}
		})
	}
}

// outOfService checks that a router that takes BFD out of service, and a profile
// that changes, cost no session.
func outOfService(t *testing.T, f *frr, s *speaker) {
	t.Parallel()
	source := f.source("ipv6")
	// Patient, for a machine that is busy with other things.
	p := f.neighbor(t, source, 65000, "NEIGHBOR bfd 20 100 100")
	patient := fast
	patient.DetectMultiplier = 20
	p.BFD = &patient
	s.sayToo(p, route("2001:db8:109::2/128"))
	s.seesUp(t, p.Name)
	bfd := fmt.Sprintf("peer %s local-address %s interface rtr2", source, frr6)
	conf := func(line string) {
		if out, err := f.vtysh("configure terminal", "bfd", bfd, line); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	conf("shutdown")
	eventually(t, 5*time.Second, func() (bool, any) { v := s.view(p.Name); return v.BFD == "Down", v.BFD })
	conf("no shutdown")
	s.seesUp(t, p.Name)
	slower := patient
	slower.Transmit, slower.Receive = 200*time.Millisecond, 250*time.Millisecond
	p.BFD = &slower
	s.sayToo(p, route("2001:db8:109::2/128"))
	eventually(t, 5*time.Second, func() (bool, any) {
		out, err := f.vtysh(fmt.Sprintf("show bfd peer %s local-address %s interface rtr2 json", source, frr6))
		text := strings.ReplaceAll(string(out), " ", "")
		return err == nil && strings.Contains(text, `"remote-transmit-interval":200`) && strings.Contains(text, `"remote-receive-interval":250`), text
	})
	if v := s.view(p.Name); v.BFD != "Up" || v.Counters.Flaps != 0 || v.Counters.Established != 1 {
		t.Errorf("%s BFD %s %+v", show(v), v.BFD, v.Counters)
	}
	if n := f.state(t, source)["connectionsEstablished"]; n != 1.0 {
		t.Errorf("FRR saw the session established %v times", n)
	}
}
