package gobgp

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"syscall"
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
				mended := time.Now()
				mend()
				s.seesUp(t, p.Name)
				t.Logf("BFD up %v after the cut was mended, the session %v", time.Since(mended), s.view(p.Name).Since.Sub(mended))
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

// A router that runs no BFD with us has the session all the same, and the reason why BFD
// is down is told.
func TestBFDThatTheRouterDoesNotRunHasWords(t *testing.T) {
	ask(t, askedNoBFD)
	s := speak(t) // which has BFD's ports for itself
	byJudgesAndFamilies(t, func(t *testing.T, j judge, family string) {
		p := j.neighbor(t, family, 65000)
		profile := fast
		p.BFD = &profile
		prefix := map[string]string{"ipv4": "198.51.109.5/32", "ipv6": "2001:db8:109::5/128"}[family]
		s.sayToo(p, route(prefix))
		want := fmt.Sprintf("no BFD packet comes from %s to UDP port 3784 with a TTL of 255: does it run BFD with %s, and is the port let through?", p.Address, p.Source)
		eventually(t, within, func() (bool, any) {
			v := s.view(p.Name)
			return v.State == bgp.Established && v.BFD == "Down" && v.BFDFault == want, fmt.Sprintf("%s BFD %s %q, want %q", show(v), v.BFD, v.BFDFault, want)
		})
		holds(t, j, p, family, prefix)
		if v := s.view(p.Name); v.Counters.Flaps != 0 {
			t.Errorf("%s %+v", show(v), v.Counters)
		}
	})
}

// BIRD signs, as bfdd of FRR does not: it does not know how. It runs BFD in one way
// with all neighbors, so this is a test for itself.
func TestBFDIsAuthenticated(t *testing.T) {
	b := needBIRD(t)
	s := speak(t)
	bird := func(t *testing.T, bfd string) {
		b.change(t, func(map[string]birdPart) { b.bfd = bfd })
	}
	t.Cleanup(func() { bird(t, birdBFD) })
	one, two, wrong := lb.BFDKey{ID: 1, Password: lb.NewSecret("one")}, lb.BFDKey{ID: 2, Password: lb.NewSecret("exactly-twenty-bytes")}, lb.BFDKey{ID: 2, Password: lb.NewSecret("wrong")}
	const first, second = `password "one" { id 1; };`, `password "exactly-twenty-bytes" { id 2; };`
	for _, c := range []struct {
		family, words string
		how           lb.BFDAuthentication
	}{
		{"ipv4", "meticulous keyed sha1", lb.BFDMeticulousKeyedSHA1},
		{"ipv6", "keyed sha1", lb.BFDKeyedSHA1},
	} {
		t.Run(c.family+" "+c.words, func(t *testing.T) {
			says := func(passwords string) {
				bird(t, fmt.Sprintf(`interface "*" { interval 100 ms; multiplier 20; authentication %s; %s };`, c.words, passwords))
			}
			says(first)
			p := b.neighbor(t, c.family, 65000, watched)
			prefix := map[string]string{"ipv4": "198.51.109.3/32", "ipv6": "2001:db8:109::3/128"}[c.family]
			keys := func(ks ...lb.BFDKey) {
				profile := fast
				profile.DetectMultiplier, profile.Authentication, profile.Keys = 20, c.how, ks
				p.BFD = &profile
				s.sayToo(p, route(prefix))
			}
			p.HoldTime = 60 * time.Second
			keys(one)
			s.seesUp(t, p.Name)

			// First both know the new key, then each signs with it, then the old one goes.
			// A packet by a key that the other end does not have would be lost; were more
			// lost than may be, the session would fall.
			keys(one, two)
			says(second + first)
			signs := func(id string) {
				t.Helper()
				eventually(t, within, func() (bool, any) {
					text := b.ask(t, "show bfd sessions")
					v := s.view(p.Name)
					return v.BFD == "Up" && strings.Contains(text, "Up"), fmt.Sprintf("with key %s: %s BFD %s %s\n%s", id, show(v), v.BFD, v.BFDFault, text)
				})
			}
			signs("1 and 2")
			keys(two, one)
			says(second)
			signs("2")
			keys(two)
			signs("2 alone")
			if v := s.view(p.Name); v.Counters.Flaps != 0 || v.Counters.Established != 1 {
				t.Errorf("%s %+v", show(v), v.Counters)
			}

			// A key of the same name and another text ends the session, and says so.
			keys(wrong)
			eventually(t, within, func() (bool, any) {
				v := s.view(p.Name)
				return v.Counters.Flaps > 0 && strings.Contains(v.BFDFault, "its key has another text"), fmt.Sprintf("%s BFD %s %s", show(v), v.BFD, v.BFDFault)
			})
			keys(two)
			s.seesUp(t, p.Name)

			// So does a key that is set at one end only, whichever it is. The session has
			// the path without BFD meanwhile.
			stays := func(words string) {
				t.Helper()
				eventually(t, within, func() (bool, any) {
					v := s.view(p.Name)
					return v.State == bgp.Established && v.BFD == "Down" && v.BFDFault == words, fmt.Sprintf("%s BFD %s %s", show(v), v.BFD, v.BFDFault)
				})
			}
			bird(t, `interface "*" { interval 100 ms; multiplier 20; };`)
			stays("the neighbor does not authenticate its packets, and this end does: give it the key, or leave authentication out of the BFDProfile")
			profile := fast
			profile.DetectMultiplier = 20
			p.BFD = &profile
			s.sayToo(p, route(prefix))
			s.seesUp(t, p.Name)
			says(second)
			stays("the neighbor authenticates its packets, and this end does not: set authentication in the BFDProfile, or turn it off there")
			s.sayToo(p)
		})
	}
}

// A router whose BFD has restarted does not know our session, and is found again
// when its last life has timed out.
func TestBFDFindsARouterThatHasRestarted(t *testing.T) {
	s := speak(t)
	for _, c := range []struct {
		name    string
		judge   func(t *testing.T) judge
		restart func(t *testing.T)
	}{
		{"frr", func(t *testing.T) judge { return needFRR(t) }, func(t *testing.T) {
			f := needFRR(t)
			pid := readPID(t, filepath.Join(f.dir, "bfdd.pid"))
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			f.start(t, "bfdd")
		}},
		{"bird", func(t *testing.T) judge { return needBIRD(t) }, func(t *testing.T) {
			b := needBIRD(t)
			b.ask(t, "restart bfd1")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for family, prefix := range map[string]string{"ipv4": "198.51.109.4/32", "ipv6": "2001:db8:109::4/128"} {
				p := c.judge(t).neighbor(t, family, 65000, watched)
				profile := fast
				p.BFD, p.HoldTime = &profile, 60*time.Second
				s.sayToo(p, route(prefix))
				s.seesUp(t, p.Name)
				before := s.view(p.Name).Counters
				begun := time.Now()
				c.restart(t)
				restarted := time.Now()
				eventually(t, within, func() (bool, any) {
					v := s.view(p.Name)
					return v.Counters.Flaps > before.Flaps && v.Counters.Established > before.Established, fmt.Sprintf("%s BFD %s %s", show(v), v.BFD, v.BFDFault)
				})
				s.seesUp(t, p.Name)
				t.Logf("%s: restarted in %v, up %v after that: %+v", family, restarted.Sub(begun), time.Since(restarted), s.view(p.Name).Counters)
			}
		})
	}
}

// A router that was found on its interface is watched between link-local addresses.
func TestBFDWatchesARouterFoundOnItsInterface(t *testing.T) {
	s := speak(t)                       // which has BFD's ports for itself
	for _, router := range judges[:2] { // those that show themselves, and have BFD
		t.Run(router.name, func(t *testing.T) {
			j := router.need(t)
			p := j.unnumbered(t, "", watched)
			profile := fast
			p.BFD, p.HoldTime = &profile, 60*time.Second
			s.sayToo(p, route("2001:db8:109::6/128"), route("198.51.109.6/32"))
			s.seesUp(t, p.Name)
			v := s.view(p.Name)
			mend := cutBFD(t, j.space(), v.Local.Addr().WithZone(""))
			eventually(t, within, func() (bool, any) {
				now := s.view(p.Name)
				return now.Counters.Flaps > v.Counters.Flaps, show(now)
			})
			mend()
			s.seesUp(t, p.Name)
			holds(t, j, p, "ipv6", "2001:db8:109::6/128")
			s.Set(nil)
			clear(s.said)
		})
	}
}
