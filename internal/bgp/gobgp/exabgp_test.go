package gobgp

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/lb"
)

// An oddRouter is ExaBGP on loopback, which plays a router whose capabilities are
// legal and rare. It writes down what it hears.
type oddRouter struct {
	dir  string
	peer lb.BGPPeer
}

// oddPorts counts the ports in use, which are below those that the kernel gives to
// connections.
var oddPorts atomic.Int32

// odd starts one with these lines in its neighbor's configuration.
func odd(t *testing.T, over string, lines ...string) *oddRouter {
	t.Helper()
	need(t, "exabgp")
	r := newRouter(t)
	if over == "::1" {
		r = newRouter6(t)
	}
	r.l.Close()
	r.peer.Port = uint16(17900 + oddPorts.Add(1))
	// Not a name made of the test's: ExaBGP reads commas in it as the ends of words.
	dir, err := os.MkdirTemp("", "belfry-exabgp-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	o := &oddRouter{dir: dir, peer: r.peer}
	// It gives up being root, and talks to a process, which is read here and speaks from
	// here.
	script := fmt.Sprintf("#!/bin/sh\ncat %s/say &\nexec cat >> %[1]s/heard\n", o.dir)
	if !slices.Contains(lines, "passive false;") {
		lines = append([]string{"passive true;"}, lines...)
	}
	conf := fmt.Sprintf("process test {\nrun %s/script;\nencoder json;\n}\nneighbor %s {\nrouter-id 192.0.2.1;\nlocal-address %[2]s;\nlocal-as 65001;\npeer-as 65000;\nlisten %d;\n%s\napi {\nprocesses [ test ];\nneighbor-changes;\nreceive { parsed; update; notification; }\n}\n}\n",
		o.dir, over, r.peer.Port, strings.Join(lines, "\n"))
	for name, text := range map[string]string{"script": script, "conf": conf, "heard": ""} {
		if err := os.WriteFile(filepath.Join(o.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(o.dir, name), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(o.dir, "say"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run("chmod", "a+rwx", filepath.Join(o.dir, "say"), o.dir); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(o.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("exabgp", filepath.Join(o.dir, "conf"))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "exabgp.api.cli=false")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		// What waits for commands ends with the last that could give any.
		if f, err := os.OpenFile(filepath.Join(o.dir, "say"), os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
			f.Close()
		}
		log.Close()
		if text, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("ExaBGP:\n%s", text)
		}
	})
	return o
}

// says gives ExaBGP a command.
func (o *oddRouter) says(t *testing.T, command string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(o.dir, "say"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := fmt.Fprintln(f, command); err != nil {
		t.Fatal(err)
	}
}

// An oddMessage is what ExaBGP tells of a message.
type oddMessage struct {
	Type     string
	Neighbor struct {
		State   string
		Message struct {
			Update struct {
				Announce map[string]map[string][]struct{ NLRI string }
				Withdraw map[string][]struct{ NLRI string }
			}
			EOR *struct{ AFI, SAFI string }
		}
	}
}

// heard returns the routes that ExaBGP has of us, with their next hops, the families
// whose end it was told, and how often the session came up.
func (o *oddRouter) heard(t *testing.T) (routes map[string]string, ends []string, ups int) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(o.dir, "heard"))
	if err != nil {
		t.Fatal(err)
	}
	routes = map[string]string{}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		var m oddMessage
		if json.Unmarshal(lines.Bytes(), &m) != nil {
			continue // half a line yet
		}
		switch m.Neighbor.State {
		case "up":
			clear(routes)
			ups++
		case "down":
			clear(routes)
		}
		for _, hops := range m.Neighbor.Message.Update.Announce {
			for hop, all := range hops {
				for _, r := range all {
					routes[r.NLRI] = hop
				}
			}
		}
		for _, all := range m.Neighbor.Message.Update.Withdraw {
			for _, r := range all {
				delete(routes, r.NLRI)
			}
		}
		if e := m.Neighbor.Message.EOR; e != nil {
			ends = append(ends, e.AFI)
		}
	}
	return routes, ends, ups
}

func TestOddRoutersHearWhatTheyUnderstand(t *testing.T) {
	t.Parallel()
	const four, six = "198.51.100.1/32", "2001:db8:100::1/128"
	const v4, v6, both = "family { ipv4 unicast; }", "family { ipv6 unicast; }", "family { ipv4 unicast; ipv6 unicast; }"
	for _, c := range []struct {
		name, over string
		lines      []string
		hold       time.Duration
		// routes are what it should have, by way of us; ends whether it wants to know
		// where a table ends.
		routes []string
		ends   bool
	}{
		{
			"offers all there is", "::1",
			[]string{
				"hold-time 9;", "family { ipv4 unicast; ipv6 unicast; ipv4 flow; l2vpn vpls; }", "nexthop { ipv4 unicast ipv6; }",
				"capability { asn4 enable; route-refresh enable; graceful-restart 120; nexthop enable; add-path send/receive; extended-message enable; operational enable; }",
			},
			9 * time.Second,
			[]string{four, six},
			true,
		},
		{"offers nothing but its family", "127.0.0.1", []string{"hold-time 9;", v4, "capability { asn4 disable; route-refresh disable; extended-message disable; }"}, 9 * time.Second, []string{four}, false},
		{"has AS numbers of two octets", "::1", []string{"hold-time 9;", v6, "capability { asn4 disable; route-refresh enable; }"}, 9 * time.Second, []string{six}, false},
		{"has IPv6 alone, over IPv4", "127.0.0.1", []string{"hold-time 9;", v6}, 9 * time.Second, nil, false},
		{"has IPv4 alone, over IPv6, without RFC 8950", "::1", []string{"hold-time 9;", v4}, 9 * time.Second, nil, false},
		{"has RFC 8950 without IPv4", "::1", []string{"hold-time 9;", v6, "nexthop { ipv4 unicast ipv6; }", "capability { nexthop enable; }"}, 9 * time.Second, []string{six}, false},
		{"has both families, but not RFC 8950", "::1", []string{"hold-time 9;", both, "capability { nexthop disable; }"}, 9 * time.Second, []string{six}, false},
		{"has no hold time", "127.0.0.1", []string{"hold-time 0;", v4}, 0, []string{four}, false},
		{"has the shortest hold time", "127.0.0.1", []string{"hold-time 3;", v4}, 3 * time.Second, []string{four}, false},
		{"wants messages of 65,535 octets", "127.0.0.1", []string{"hold-time 9;", v4, "capability { extended-message enable; }"}, 9 * time.Second, []string{four}, false},
		{"wants several paths", "::1", []string{"hold-time 9;", v6, "capability { add-path send/receive; }"}, 9 * time.Second, []string{six}, false},
		{"dials us, too", "127.0.0.1", []string{"passive false;", "hold-time 9;", v4}, 9 * time.Second, []string{four}, false},
		{"restarts gracefully", "127.0.0.1", []string{"hold-time 9;", v4, "capability { graceful-restart 4095; }"}, 9 * time.Second, []string{four}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o := odd(t, c.over, c.lines...)
			s := speak(t)
			has := func(suffix string) {
				t.Helper()
				want := map[string]string{}
				for _, p := range c.routes {
					want[strings.Replace(p, "1/", suffix+"/", 1)] = c.over
				}
				eventually(t, within, func() (bool, any) {
					got, ends, ups := o.heard(t)
					return ups == 1 && maps.Equal(got, want) && (len(ends) > 0) == c.ends,
						fmt.Sprintf("%d sessions, %v, ends of %v, want %v; %s", ups, got, ends, want, show(s.view(o.peer.Name)))
				})
			}
			s.say(o.peer, route(four), route(six))
			v := s.established(o.peer.Name)
			if v.Negotiated.HoldTime != c.hold || v.Sent != len(c.routes) || v.Unsendable[lb.IPv4]+v.Unsendable[lb.IPv6] != 2-len(c.routes) {
				t.Errorf("%s, hold time %v, unsendable %v", show(v), v.Negotiated.HoldTime, v.Unsendable)
			}
			has("1")
			s.say(o.peer, route(strings.Replace(four, "1/", "2/", 1)), route(strings.Replace(six, "1/", "2/", 1), bgp.Attributes{MED: bgp.Some(7)}))
			has("2")
			if v := s.view(o.peer.Name); v.Counters.Established != 1 {
				t.Errorf("%s %+v", show(v), v.Counters)
			}
		})
	}
}

// What a router announces, in however long a form, and that it asks for our table again,
// costs no session.
func TestOddRoutersMaySayWhatIsLegal(t *testing.T) {
	t.Parallel()
	for over, c := range map[string]struct{ ours, family, theirs string }{
		"127.0.0.1": {"198.51.100.1/32", "ipv4", "203.0.113.%d/32"},
		"::1":       {"2001:db8:100::1/128", "ipv6", "2001:db8:113::%d/128"},
	} {
		t.Run(over, func(t *testing.T) {
			t.Parallel()
			o := odd(t, over, "hold-time 9;", "family { "+c.family+" unicast; }", "capability { route-refresh enable; graceful-restart 120; }")
			s := speak(t)
			s.say(o.peer, route(c.ours))
			has := func() {
				t.Helper()
				eventually(t, within, func() (bool, any) {
					routes, _, ups := o.heard(t)
					return ups == 1 && maps.Equal(routes, map[string]string{c.ours: over}), fmt.Sprintf("%d sessions, %v; %s", ups, routes, show(s.view(o.peer.Name)))
				})
			}
			has()
			announces := func(n int, attributes string) {
				o.says(t, fmt.Sprintf("announce route "+c.theirs+" next-hop %s %s", n, over, attributes))
			}
			received := func(n int) {
				t.Helper()
				eventually(t, within, func() (bool, any) {
					v := s.view(o.peer.Name)
					return v.Received == n && v.Counters.MalformedIn == 0, fmt.Sprintf("%d received, %+v", v.Received, v.Counters)
				})
			}
			announces(1, "origin incomplete med 4294967295")
			received(1)
			announces(2, "as-path [ "+strings.Repeat("4200000000 ", 250)+"]")
			announces(3, "as-path [ 65001 ( 65002 65003 ) ]")
			announces(4, "community [ "+strings.Repeat("65001:1 ", 200)+"] large-community [ 65001:1:2 ] extended-community [ target:65001:1 ]")
			announces(5, "attribute [ 0x63 0xe0 0x0102030405 ] atomic-aggregate aggregator ( 65001:192.0.2.1 )")
			o.says(t, fmt.Sprintf("withdraw route "+c.theirs+" next-hop %s", 1, over))
			received(4)
			before := s.view(o.peer.Name).Counters.UpdatesOut
			o.says(t, "announce route-refresh "+c.family+" unicast")
			eventually(t, within, func() (bool, any) {
				v := s.view(o.peer.Name)
				return v.Counters.UpdatesOut > before, v.Counters
			})
			has()
			if v := s.view(o.peer.Name); v.Counters.Established != 1 || v.State != bgp.Established {
				t.Errorf("%s %+v", show(v), v.Counters)
			}
		})
	}
}

func TestOddRoutersLastWordsAreTold(t *testing.T) {
	t.Parallel()
	o := odd(t, "127.0.0.1", "hold-time 9;", "family { ipv4 unicast; }")
	s := speak(t)
	s.say(o.peer, route("198.51.100.1/32"))
	// It has no command for a session that it does not know to be up.
	eventually(t, within, func() (bool, any) { routes, _, _ := o.heard(t); return len(routes) == 1, routes })
	o.says(t, "neighbor 127.0.0.1 teardown 8")
	if v := s.faults(o.peer.Name, bgp.Notified); v.Fault.Text != "the router says: cease: out of resources" {
		t.Error(show(v))
	}
	s.established(o.peer.Name)
}
