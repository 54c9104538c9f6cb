package gobgp

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/lb"
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
	eventually(t, 5*time.Second, func() (bool, any) {
		_ = run(ns.args("ip", "route", "replace", "blackhole", "203.0.113.254/32")...)
		_ = run(ns.args("ip", "route", "del", "blackhole", "203.0.113.254/32")...)
		return len(m.deletions("203.0.113.254")) > 0, "ip monitor is silent"
	})
	return m
}

// lastReset returns what FRR says of the last end of a session, and of graceful
// restart.
func (f *frr) lastReset(t *testing.T, source netip.Addr) string {
	t.Helper()
	v := f.state(t, source)
	js, _ := json.Marshal([]any{v["lastResetDueTo"], v["lastNotificationReason"], v["gracefulRestartInfo"], v["connectionsEstablished"]})
	return string(js)
}

func installed(ns namespace, prefix string) bool {
	address, _, _ := strings.Cut(prefix, "/")
	family := "-4"
	if strings.Contains(address, ":") {
		family = "-6"
	}
	args := ns.args("ip", family, "route", "show", address)
	out, err := exec.Command(args[0], args[1:]...).Output()
	return err == nil && len(bytes.TrimSpace(out)) > 0
}

func TestKilledSpeakerIsWaitedFor(t *testing.T) {
	t.Parallel()
	f, b := needFRR(t), needBIRD(t)
	graceful := &lb.GracefulRestart{RestartTime: 30 * time.Second}
	for _, c := range []struct {
		name   string
		router string
		gr     *lb.GracefulRestart
		// keeps says whether the router goes on forwarding.
		keeps bool
	}{
		{"frr", "frr", graceful, true},
		{"frr without graceful restart", "frr", nil, false},
		{"bird", "bird", graceful, true},
		{"bird without graceful restart", "bird", nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var p lb.BGPPeer
			var ns namespace
			var holds func(...string)
			one, two := map[bool]string{true: "198.51.101.1/32", false: "198.51.102.1/32"}[c.keeps], map[bool]string{true: "198.51.101.2/32", false: "198.51.102.2/32"}[c.keeps]
			if c.router == "frr" {
				source := f.source("ipv4")
				p, ns = f.neighbor(t, source, 65000, "NEIGHBOR graceful-restart-helper"), f.ns
				holds = func(prefixes ...string) { t.Helper(); f.holds(t, "ipv4", source, prefixes...) }
			} else {
				p, ns = b.neighbor(t, "ipv4", 65000), b.ns
				holds = func(prefixes ...string) { t.Helper(); b.holds(t, p.Name, prefixes...) }
			}
			p.GracefulRestart = c.gr
			kill := live(t, p, one, two)
			holds(one, two)
			eventually(t, 5*time.Second, func() (bool, any) { return installed(ns, one), "the route is not in the router's kernel" })
			m := watchRoutes(t, ns)
			kill()
			if !c.keeps {
				holds()
				eventually(t, 5*time.Second, func() (bool, any) { d := m.deletions("198.51.102.1"); return len(d) > 0, d })
				return
			}
			// The next life says only the first: the second is stale, and goes
			// when the new table is complete.
			live(t, p, one)
			holds(one)
			eventually(t, 5*time.Second, func() (bool, any) { d := m.deletions("198.51.101.2"); return len(d) > 0, d })
			if d := m.deletions("198.51.101.1"); len(d) > 0 {
				t.Errorf("forwarding was interrupted: %v", d)
			}
			if !installed(ns, one) {
				t.Error("the route is gone")
			}
		})
	}
}

func TestUpgradeWithGracefulRestartKeepsRoutes(t *testing.T) {
	t.Parallel()
	f := needFRR(t)
	source := f.source("ipv6")
	p := f.neighbor(t, source, 65000, "NEIGHBOR graceful-restart-helper")
	p.GracefulRestart = &lb.GracefulRestart{RestartTime: 30 * time.Second, LongLived: time.Hour}
	prefix := "2001:db8:101::1/128"
	m := watchRoutes(t, f.ns)
	for range 3 {
		s := speak(t)
		s.say(p, route(prefix))
		s.established(p.Name)
		f.holds(t, "ipv6", source, prefix)
		s.stop()
	}
	if !installed(f.ns, prefix) {
		t.Error("the route is gone from the router's kernel")
	}
	// So does a change of the peer's own settings, which takes a new session.
	s := speak(t)
	s.say(p, route(prefix))
	s.established(p.Name)
	p.HoldTime = 6 * time.Second
	s.say(p, route(prefix))
	eventually(t, 10*time.Second, func() (bool, any) {
		v := s.view(p.Name)
		return v.State == bgp.Established && v.Negotiated.HoldTime == 6*time.Second && v.Sent == 1, v
	})
	if d := m.deletions("2001:db8:101::1"); len(d) > 0 {
		t.Errorf("forwarding was interrupted: %v; FRR: %s", d, f.lastReset(t, source))
	}
	// Leaving for good is another matter.
	s.Set(nil)
	eventually(t, 5*time.Second, func() (bool, any) { v := s.Sessions(); return len(v) == 0, v })
	eventually(t, 5*time.Second, func() (bool, any) { d := m.deletions("2001:db8:101::1"); return len(d) > 0, d })
}

func TestNodeTakesItsLeaveInOrder(t *testing.T) {
	t.Parallel()
	f := needFRR(t)
	for _, family := range []string{"ipv4", "ipv6"} {
		t.Run(family, func(t *testing.T) {
			t.Parallel()
			source := f.source(family)
			p := f.neighbor(t, source, frrAS)
			address := netip.MustParseAddr(map[string]string{"ipv4": "198.51.103.1", "ipv6": "2001:db8:103::1"}[family])
			prefix := netip.PrefixFrom(address, address.BitLen()).String()
			snapshot := lb.Snapshot{
				Nodes:             []lb.Node{{Name: "a"}},
				BGPPeers:          []lb.BGPPeer{p},
				BGPAdvertisements: []lb.BGPAdvertisement{{Name: "all", LocalPref: new(uint32(200))}},
				Services: []lb.Service{{
					Key: lb.ServiceKey{Namespace: "web", Name: "a"}, Assigned: []netip.Addr{address},
					Endpoints: lb.Endpoints{"a": {Ready: 1}},
				}},
			}
			s := speak(t)
			say := func(phase bgp.Phase) {
				s.Set(bgp.Decide(snapshot, "a", bgp.Options{Phase: phase}).Sessions)
			}
			path := func() map[string]any {
				paths, _ := f.show(t, "show bgp "+family+" unicast "+prefix)["paths"].([]any)
				if len(paths) == 0 {
					return nil
				}
				return paths[0].(map[string]any)
			}
			say(bgp.Serving)
			s.established(p.Name)
			eventually(t, 5*time.Second, func() (bool, any) { v := path(); return v["locPrf"] == 200.0, v })
			say(bgp.Leaving)
			eventually(t, 5*time.Second, func() (bool, any) {
				v := path()
				c, _ := v["community"].(map[string]any)
				return v["locPrf"] == 0.0 && c["string"] == "graceful-shutdown", v
			})
			say(bgp.Left)
			eventually(t, 5*time.Second, func() (bool, any) {
				v := s.view(p.Name)
				return path() == nil && v.State == bgp.Established && v.Sent == 0, v
			})
			s.Set(nil)
			eventually(t, 5*time.Second, func() (bool, any) {
				v := f.state(t, source)
				return v["lastNotificationReason"] == "Cease/Peer De-configured", v
			})
		})
	}
}

func TestShutdownIsExplainedToTheRouter(t *testing.T) {
	t.Parallel()
	f := needFRR(t)
	source := f.source("ipv4")
	p := f.neighbor(t, source, 65000)
	s := speak(t)
	s.say(p, route("198.51.104.1/32"))
	s.established(p.Name)
	p.Shutdown, p.ShutdownMessage = true, "new cable"
	s.say(p, route("198.51.104.1/32"))
	s.faults(p.Name, bgp.AdminShutdown)
	eventually(t, 5*time.Second, func() (bool, any) {
		v := f.state(t, source)
		return v["lastShutdownDescription"] == "new cable", v
	})
	p.Shutdown = false
	s.say(p, route("198.51.104.1/32"))
	s.established(p.Name)
}
