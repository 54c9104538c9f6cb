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
	eventually(t, within, func() (bool, any) {
		v := s.view(name)
		return v.State == bgp.Established && v.BFD == "Up", fmt.Sprintf("%s BFD %s %s", show(v), v.BFD, v.BFDFault)
	})
}

func TestBFDTakesASessionDownWithItsPath(t *testing.T) {
	ask(t, askedBFD)
	t.Parallel()
	// One speaker: a node has BFD's ports once.
	s := speak(t)
	t.Run("out of service", func(t *testing.T) { outOfService(t, needFRR(t), s) })
	byJudges(t, func(t *testing.T, j judge) {
		for _, c := range []struct {
			name, family string
			as           uint32
			multihop     bool
		}{
			{"ipv4", "ipv4", 65000, false},
			{"ipv6", "ipv6", 65000, false},
			{"ipv4 multihop", "ipv4", 65000, true},
			{"ipv6 internal", "ipv6", j.as(), false},
		} {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				traits := []trait{watched}
				if c.multihop {
					traits = append(traits, farAway)
				}
				p := j.neighbor(t, c.family, c.as, traits...)
				p.EBGPMultiHop = c.multihop
				prefix := map[string]string{"ipv4": "198.51.109.1/32", "ipv6": "2001:db8:109::1/128"}[c.family]
				profile := fast
				if c.multihop {
					profile.MinimumTTL = 60 // BIRD sends with 64 to those far away
				}
				p.BFD = &profile
				// The hold timer would take long.
				p.HoldTime = 60 * time.Second
				s.sayToo(p, route(prefix))
				s.seesUp(t, p.Name)

				before := s.view(p.Name).Counters
				mend := cutBFD(t, j.space(), p.Source)
				start := time.Now()
				eventually(t, within, func() (bool, any) {
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
	})
}

// outOfService checks that a router that takes BFD out of service, and a profile
// that changes, cost no session.
func outOfService(t *testing.T, f *frr, s *speaker) {
	t.Parallel()
	// Patient, for a machine that is busy with other things.
	p := f.neighbor(t, "ipv6", 65000)
	f.configure(t, "neighbor "+p.Source.String()+" bfd 20 100 100")
	patient := fast
	patient.DetectMultiplier = 20
	p.BFD = &patient
	s.sayToo(p, route("2001:db8:109::2/128"))
	s.seesUp(t, p.Name)
	bfd := fmt.Sprintf("peer %s local-address %s interface rtr2", p.Source, frr6)
	conf := func(line string) {
		if out, err := f.vtysh("configure terminal", "bfd", bfd, line); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	conf("shutdown")
	eventually(t, within, func() (bool, any) { v := s.view(p.Name); return v.BFD == "Down", v.BFD })
	conf("no shutdown")
	s.seesUp(t, p.Name)
	slower := patient
	slower.Transmit, slower.Receive = 200*time.Millisecond, 250*time.Millisecond
	p.BFD = &slower
	s.sayToo(p, route("2001:db8:109::2/128"))
	eventually(t, within, func() (bool, any) {
		out, err := f.vtysh(fmt.Sprintf("show bfd peer %s local-address %s interface rtr2 json", p.Source, frr6))
		text := strings.ReplaceAll(string(out), " ", "")
		return err == nil && strings.Contains(text, `"remote-transmit-interval":200`) && strings.Contains(text, `"remote-receive-interval":250`), text
	})
	if v := s.view(p.Name); v.BFD != "Up" || v.Counters.Flaps != 0 || v.Counters.Established != 1 {
		t.Errorf("%s BFD %s %+v", show(v), v.BFD, v.Counters)
	}
	if n := f.state(t, p)["connectionsEstablished"]; n != 1.0 {
		t.Errorf("FRR saw the session established %v times", n)
	}
}
