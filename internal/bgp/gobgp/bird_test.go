package gobgp

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/lb"
)

// A bird is BIRD at 192.0.3.1 and 2001:db8:3::1, AS 65002. Its configuration is
// one file, of a part for each neighbor.
type bird struct {
	dir   string
	ns    namespace
	parts map[string]string
	next  int
}

const birdAS = 65002

func needBIRD(t *testing.T) *bird {
	t.Helper()
	need(t, "bird", "birdc")
	lab.mu.Lock()
	defer lab.mu.Unlock()
	if lab.bird != nil {
		return lab.bird
	}
	dir, err := os.MkdirTemp("", "belfry-bird-")
	if err != nil {
		t.Fatal(err)
	}
	lab.closers = append(lab.closers, func() { os.RemoveAll(dir) })
	ns, err := lab.namespace()
	if err == nil {
		err = lab.wire(3, ns)
	}
	if err != nil {
		t.Fatal(err)
	}
	b := &bird{dir: dir, ns: ns, parts: map[string]string{}, next: 10}
	b.write(t)
	if _, err := lab.daemon(ns, filepath.Join(dir, "log"), "bird", "-f", "-c", filepath.Join(dir, "bird.conf"), "-s", filepath.Join(dir, "ctl"), "-P", filepath.Join(dir, "pid")); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, func() (bool, any) {
		out, err := b.birdc("show status")
		return err == nil, fmt.Sprint(out, err)
	})
	lab.bird = b
	return b
}

func (b *bird) write(t *testing.T) {
	t.Helper()
	var conf strings.Builder
	conf.WriteString("router id 192.0.3.1;\nprotocol device {}\nprotocol bfd { interface \"*\" { interval 100 ms; multiplier 3; }; multihop { interval 100 ms; multiplier 3; }; }\nprotocol kernel { ipv4 { export all; }; merge paths on; }\nprotocol kernel { ipv6 { export all; }; merge paths on; }\n")
	for _, part := range b.parts {
		conf.WriteString(part)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "bird.conf"), []byte(conf.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (b *bird) birdc(command string) (string, error) {
	var out bytes.Buffer
	cmd := exec.Command("birdc", append([]string{"-s", filepath.Join(b.dir, "ctl")}, strings.Fields(command)...)...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	_, text, _ := strings.Cut(out.String(), "ready.\n")
	return text, err
}

// neighbor makes an address of ours, which no other test has, a neighbor of
// BIRD, and returns the peer for our side.
func (b *bird) neighbor(t *testing.T, family string, as uint32, lines ...string) lb.BGPPeer {
	t.Helper()
	lab.mu.Lock()
	defer lab.mu.Unlock()
	b.next++
	source, router := fmt.Sprintf("192.0.3.%d", b.next), "192.0.3.1"
	if family == "ipv6" {
		source, router = fmt.Sprintf("2001:db8:3::%d", b.next), "2001:db8:3::1"
	}
	name := fmt.Sprintf("p%d", b.next)
	if len(lines) == 0 {
		lines = []string{family + " { import all; export none; };"}
	}
	b.parts[name] = fmt.Sprintf("protocol bgp %s { local %s as %d; neighbor %s as %d; passive on; hold time 9; error wait time 1, 2;\n%s\n}\n",
		name, router, birdAS, source, as, strings.Join(lines, "\n"))
	b.configure(t)
	t.Cleanup(func() {
		lab.mu.Lock()
		defer lab.mu.Unlock()
		delete(b.parts, name)
		b.configure(t)
	})
	return lb.BGPPeer{
		Name: name, MyASN: as, PeerASN: birdAS, Address: netip.MustParseAddr(router), Source: netip.MustParseAddr(source),
		HoldTime: 9 * time.Second, ConnectTime: time.Second,
	}
}

func (b *bird) configure(t *testing.T) {
	t.Helper()
	b.write(t)
	if out, err := b.birdc("configure"); err != nil || !strings.Contains(out, "Reconfigur") {
		t.Fatalf("%v: %s", err, out)
	}
}

// holds waits until BIRD has these prefixes of a neighbor and no others.
func (b *bird) holds(t *testing.T, name string, prefixes ...string) {
	t.Helper()
	eventually(t, 10*time.Second, func() (bool, any) {
		out, err := b.birdc("show route protocol " + name)
		got := regexp.MustCompile(`(?m)^\S+/\d+ `).FindAllString(out, -1)
		ok := err == nil && len(got) == len(prefixes)
		for _, p := range prefixes {
			ok = ok && strings.Contains(out, p+" ")
		}
		return ok, out
	})
}

func TestBIRDHoldsOurRoutesAndLetsGoOfThem(t *testing.T) {
	t.Parallel()
	b := needBIRD(t)
	for _, c := range []struct{ family, one, two string }{
		{"ipv4", "198.51.100.1/32", "198.51.100.0/24"},
		{"ipv6", "2001:db8:100::1/128", "2001:db8:100::/64"},
	} {
		t.Run(c.family, func(t *testing.T) {
			t.Parallel()
			p := b.neighbor(t, c.family, 65000)
			s := speak(t)
			s.say(p, route(c.one))
			s.established(p.Name)
			b.holds(t, p.Name, c.one)
			s.say(p, route(c.one), route(c.two))
			b.holds(t, p.Name, c.one, c.two)
			s.say(p, route(c.two))
			b.holds(t, p.Name, c.two)
			// The session is lost and comes back with what is wanted then.
			if out, err := b.birdc("restart " + p.Name); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			s.say(p, route(c.one))
			eventually(t, 15*time.Second, func() (bool, any) {
				v := s.view(p.Name)
				return v.Counters.Established == 2 && v.State == bgp.Established, v
			})
			b.holds(t, p.Name, c.one)
			s.say(p)
			b.holds(t, p.Name)
		})
	}
}

func TestBIRDSeesOurAttributes(t *testing.T) {
	t.Parallel()
	b := needBIRD(t)
	full := bgp.Attributes{
		LocalPref: bgp.Some(200), MED: bgp.Some(50), Prepend: 2, Endpoints: 3,
		Communities: []lb.Community{{A: 65000, B: 100}, lb.NoExport, {Large: true, A: 4200000000, B: 1, C: 2}},
	}
	both := []string{"ipv4 { import all; export none; extended next hop on; };", "ipv6 { import all; export none; };"}
	for _, c := range []struct {
		name, session, prefix string
		as                    uint32
		families              []lb.Family
		lines                 []string
	}{
		{"external", "ipv4", "198.51.108.1/32", 65000, nil, nil},
		{"internal6", "ipv6", "2001:db8:108::1/128", birdAS, nil, nil},
		{"external-4over6", "ipv6", "198.51.108.2/32", 65000, []lb.Family{lb.IPv4, lb.IPv6}, both},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := b.neighbor(t, c.session, c.as, c.lines...)
			p.Families = c.families
			a := full
			if c.as == birdAS {
				a.Prepend = 0
			} else {
				a.LocalPref = bgp.Metric{}
			}
			s := speak(t)
			s.say(p, route(c.prefix, a))
			s.established(p.Name)
			b.holds(t, p.Name, c.prefix)
			out, err := b.birdc("show route all protocol " + p.Name)
			if err != nil {
				t.Fatal(err)
			}
			// The time of day, the protocol's name and our address differ.
			out = regexp.MustCompile(`\[`+p.Name+` [^\]]*\]`).ReplaceAllString(out, "[PROTOCOL TIME]")
			out = strings.ReplaceAll(out, p.Source.String(), "OURS")
			golden(t, "bird-"+c.name+".json", strings.Split(strings.TrimSpace(out), "\n"))
		})
	}
}

func TestBIRDTakesSignedSegments(t *testing.T) {
	t.Parallel()
	b := needBIRD(t)
	for _, c := range []struct{ family, prefix string }{{"ipv4", "198.51.100.33/32"}, {"ipv6", "2001:db8:100::33/128"}} {
		t.Run(c.family, func(t *testing.T) {
			t.Parallel()
			p := b.neighbor(t, c.family, 65000, c.family+" { import all; export none; };", `password "tor-secret";`)
			p.Password = lb.NewSecret("wrong-secret")
			s := speak(t)
			s.say(p, route(c.prefix))
			s.faults(p.Name, bgp.MD5Suspected)
			p.Password = lb.NewSecret("tor-secret")
			s.say(p, route(c.prefix))
			s.established(p.Name)
			b.holds(t, p.Name, c.prefix)
		})
	}
}
