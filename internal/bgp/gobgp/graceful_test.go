package gobgp

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/lb/lbtest"
)

// lifeEnv is the environment variable that tells a child what to say.
const lifeEnv = "BELFRY_BGP_LIFE"

// A life is what a speaker in a process of its own says until it is killed.
type life struct {
	Peer   lb.BGPPeer
	Routes []netip.Prefix
}

// speakUntilKilled is the child's main.
func speakUntilKilled() {
	var l life
	if err := json.Unmarshal([]byte(os.Getenv(lifeEnv)), &l); err != nil {
		panic(err)
	}
	p := New(slog.New(slog.DiscardHandler))
	var routes []bgp.Route
	for _, r := range l.Routes {
		routes = append(routes, bgp.Route{Prefix: r})
	}
	p.Set([]bgp.Session{{Peer: l.Peer, RouterID: routerID, Routes: routes}})
	_ = p.Run(context.Background())
}

// live starts a speaker in a process of its own; kill kills it with SIGKILL.
func live(t *testing.T, p lb.BGPPeer, routes ...string) (kill func()) {
	t.Helper()
	l := life{Peer: p}
	for _, r := range routes {
		l.Routes = append(l.Routes, netip.MustParsePrefix(r))
	}
	js, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), labChild+"="+childGone, lifeEnv+"="+string(js))
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	kill = func() {
		once.Do(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
	}
	t.Cleanup(kill)
	return kill
}

// A monitor collects what happens to the kernel's routes in a namespace.
type monitor struct {
	mu  sync.Mutex
	out bytes.Buffer
}

func (m *monitor) Write(b []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.out.Write(b)
}

// deletions returns the lines that tell of a deleted route with this text.
func (m *monitor) deletions(of string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for line := range strings.Lines(m.out.String()) {
		if strings.HasPrefix(line, "Deleted") && strings.Contains(line, of) {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

func watchRoutes(t *testing.T, ns namespace) *monitor {
	t.Helper()
	m := &monitor{}
	args := ns.args("ip", "monitor", "route")
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout = m
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	// It is listening when it tells of a change of ours.
	eventually(t, within, func() (bool, any) {
		_ = run(ns.args("ip", "route", "replace", "blackhole", "203.0.113.254/32")...)
		_ = run(ns.args("ip", "route", "del", "blackhole", "203.0.113.254/32")...)
		return len(m.deletions("203.0.113.254")) > 0, "ip monitor is silent"
	})
	return m
}

func installed(ns namespace, prefix string) bool { return kernelRoute(ns, prefix) != "" }

// kernelRoute is what a namespace's kernel has for just this prefix.
func kernelRoute(ns namespace, prefix string) string {
	args := ns.args("ip", map[string]string{"ipv4": "-4", "ipv6": "-6"}[familyName(prefix)], "route", "show", "exact", prefix)
	out, err := exec.Command(args[0], args[1:]...).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

func TestKilledSpeakerIsWaitedFor(t *testing.T) {
	ask(t, askedCrash)
	t.Parallel()
	graceful := &lb.GracefulRestart{RestartTime: time.Minute}
	byJudgesAndFamilies(t, func(t *testing.T, j judge, family string) {
		for _, c := range []struct {
			name string
			gr   *lb.GracefulRestart
			// one and two are told of; by family.
			one, two map[string]string
		}{
			{
				"with graceful restart", graceful,
				map[string]string{"ipv4": "198.51.101.1/32", "ipv6": "2001:db8:121::1/128"},
				map[string]string{"ipv4": "198.51.101.2/32", "ipv6": "2001:db8:121::2/128"},
			},
			{
				"without", nil,
				map[string]string{"ipv4": "198.51.102.1/32", "ipv6": "2001:db8:122::1/128"},
				map[string]string{"ipv4": "198.51.102.2/32", "ipv6": "2001:db8:122::2/128"},
			},
		} {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				one, two := c.one[family], c.two[family]
				var traits []trait
				if c.gr != nil {
					traits = append(traits, helper)
				}
				p := j.neighbor(t, family, 65000, traits...)
				p.GracefulRestart = c.gr
				explain(t, j, p)
				kill := live(t, p, one, two)
				holds(t, j, p, family, one, two)
				leads(t, j, one, p.Source)
				m := watchRoutes(t, j.space())
				kill()
				down(t, j, p)
				if c.gr == nil {
					holds(t, j, p, family)
					leads(t, j, one)
					return
				}
				holds(t, j, p, family, one, two)
				// The next life says only the first: the second is stale, and goes
				// when the new table is complete.
				live(t, p, one)
				holds(t, j, p, family, one)
				eventually(t, within, func() (bool, any) { d := m.deletions(hostOf(two)); return len(d) > 0, d })
				if d := m.deletions(hostOf(one)); len(d) > 0 {
					t.Errorf("forwarding was interrupted: %v", d)
				}
				if !installed(j.space(), one) {
					t.Error("the route is gone")
				}
			})
		}
	})
}

// explain has a router say why it lost the session last, if the test fails.
func explain(t *testing.T, j judge, p lb.BGPPeer) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the router's last word: %s", j.lastWord(t, p))
		}
	})
}

// hostOf is the address of a prefix, as ip spells one that is for a host.
func hostOf(prefix string) string {
	address, _, _ := strings.Cut(prefix, "/")
	return address + " "
}

func TestUpgradeWithGracefulRestartKeepsRoutes(t *testing.T) {
	ask(t, askedUpgrade)
	t.Parallel()
	byJudgesAndFamilies(t, func(t *testing.T, j judge, family string) {
		p := j.neighbor(t, family, 65000, helper)
		explain(t, j, p)
		p.GracefulRestart = &lb.GracefulRestart{RestartTime: time.Minute, LongLived: time.Hour}
		prefix := map[string]string{"ipv4": "198.51.123.1/32", "ipv6": "2001:db8:123::1/128"}[family]
		m := watchRoutes(t, j.space())
		for range 3 {
			s := speak(t)
			s.say(p, route(prefix))
			s.established(p.Name)
			holds(t, j, p, family, prefix)
			leads(t, j, prefix, p.Source)
			s.stop()
			down(t, j, p)
			holds(t, j, p, family, prefix)
		}
		// So does a change of the peer's own settings, which takes a new session.
		s := speak(t)
		s.say(p, route(prefix))
		s.established(p.Name)
		p.HoldTime = 6 * time.Second
		s.say(p, route(prefix))
		eventually(t, within, func() (bool, any) {
			v := s.view(p.Name)
			return v.State == bgp.Established && v.Negotiated.HoldTime == 6*time.Second && v.Sent == 1, v
		})
		holds(t, j, p, family, prefix)
		if d := m.deletions(hostOf(prefix)); len(d) > 0 || !installed(j.space(), prefix) {
			t.Errorf("forwarding was interrupted: %v; the router: %s", d, j.lastWord(t, p))
		}
		// Leaving for good is another matter.
		s.Set(nil)
		eventually(t, within, func() (bool, any) { v := s.Sessions(); return len(v) == 0, v })
		eventually(t, within, func() (bool, any) { d := m.deletions(hostOf(prefix)); return len(d) > 0, d })
	})
}

func TestNodeTakesItsLeaveInOrder(t *testing.T) {
	ask(t, askedLeave)
	t.Parallel()
	byJudgesAndFamilies(t, func(t *testing.T, j judge, family string) {
		for name, as := range map[string]uint32{"internal": j.as(), "external": 65000} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				p := j.neighbor(t, family, as)
				address := netip.MustParseAddr(map[string]string{"ipv4": "198.51.103.1", "ipv6": "2001:db8:103::1"}[family])
				prefix := netip.PrefixFrom(address, address.BitLen()).String()
				ad := lb.BGPAdvertisement{Name: "all"}
				if as == j.as() {
					ad.LocalPref = new(uint32(200))
				}
				snapshot := lb.Snapshot{
					Pools:             []lb.Pool{lbtest.Everything()},
					Nodes:             []lb.Node{{Name: "a"}},
					BGPPeers:          []lb.BGPPeer{p},
					BGPAdvertisements: []lb.BGPAdvertisement{ad},
					Services: []lb.Service{{
						Key: lb.ServiceKey{Namespace: "web", Name: "a"}, Assigned: []netip.Addr{address},
						Endpoints: lb.Endpoints{IPv4: lb.NodeEndpoints{"a": {Ready: 1}}, IPv6: lb.NodeEndpoints{"a": {Ready: 1}}},
					}},
				}
				s := speak(t)
				say := func(phase bgp.Phase) {
					s.Set(bgp.Decide(snapshot, "a", bgp.Options{Phase: phase}).Sessions)
				}
				internally := func(h heard, preference uint32) bool {
					return as != j.as() || h.localPref == bgp.Some(preference)
				}
				say(bgp.Serving)
				s.established(p.Name)
				told(t, j, p, prefix, func(h heard) bool { return internally(h, 200) && h.communities == "" })
				say(bgp.Leaving)
				told(t, j, p, prefix, func(h heard) bool { return internally(h, 0) && h.communities == lb.GracefulShutdown.String() })
				say(bgp.Left)
				holds(t, j, p, family)
				// The router may have read it before we know that it has been written.
				if v := s.established(p.Name); v.Sent != 0 || !j.up(t, p) {
					t.Error(show(v))
				}
				s.Set(nil)
				eventually(t, within, func() (bool, any) {
					word := j.lastWord(t, p)
					return regexp.MustCompile("(?i)peer (de-|un)configured").MatchString(word), word
				})
			})
		}
	})
}

func TestShutdownIsExplainedToTheRouter(t *testing.T) {
	ask(t, askedShutdown)
	t.Parallel()
	byJudgesAndFamilies(t, func(t *testing.T, j judge, family string) {
		prefix := map[string]string{"ipv4": "198.51.104.1/32", "ipv6": "2001:db8:104::1/128"}[family]
		p := j.neighbor(t, family, 65000)
		s := speak(t)
		s.say(p, route(prefix))
		s.established(p.Name)
		p.Shutdown, p.ShutdownMessage = true, "new cable"
		s.say(p, route(prefix))
		s.faults(p.Name, bgp.AdminShutdown)
		eventually(t, within, func() (bool, any) {
			word := j.lastWord(t, p)
			return strings.Contains(word, "new cable"), word
		})
		p.Shutdown = false
		s.say(p, route(prefix))
		s.established(p.Name)
		holds(t, j, p, family, prefix)
	})
}
