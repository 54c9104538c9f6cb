package gobgp

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/lb"
)

// An openbgpd is OpenBGPD at 192.0.6.1 and 2001:db8:6::1, AS 65003. On Linux it
// leaves the kernel's routes alone: what it would send where stands in its RIB.
type openbgpd struct {
	dir     string
	ns      namespace
	sources *sources
	// mu guards what follows, and the file.
	mu        sync.Mutex
	neighbors map[string]openbgpdNeighbor
}

// An openbgpdNeighbor is what OpenBGPD is told of one neighbor.
type openbgpdNeighbor struct {
	lines, password string
	families        []string
}

const openbgpdAS = 65003

// openbgpdRoom is where OpenBGPD's processes lock themselves in.
const openbgpdRoom = "/run/openbgpd"

func needOpenBGPD(t *testing.T) *openbgpd {
	t.Helper()
	need(t, "bgpd", "bgpctl")
	lab.mu.Lock()
	defer lab.mu.Unlock()
	if lab.openbgpd != nil {
		return lab.openbgpd
	}
	if err := os.MkdirAll(openbgpdRoom, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, ns := lab.room(t, "belfry-openbgpd-", 6)
	o := &openbgpd{dir: dir, ns: ns, sources: newSources(), neighbors: map[string]openbgpdNeighbor{}}
	o.write(t)
	if _, err := lab.daemon(ns, filepath.Join(dir, "log"), "bgpd", "-d", "-f", filepath.Join(dir, "bgpd.conf")); err != nil {
		t.Fatal(err)
	}
	eventually(t, within, func() (bool, any) {
		out, err := o.bgpctl("show", "summary")
		return err == nil, fmt.Sprint(string(out), err)
	})
	lab.openbgpd = o
	return o
}

func (o *openbgpd) write(t *testing.T) {
	t.Helper()
	conf := fmt.Sprintf("AS %d\nrouter-id 192.0.6.1\nsocket %q\nlisten on 192.0.6.1\nlisten on 2001:db8:6::1\n", openbgpdAS, filepath.Join(o.dir, "ctl"))
	for _, address := range slices.Sorted(maps.Keys(o.neighbors)) {
		n := o.neighbors[address]
		conf += fmt.Sprintf("neighbor %s {\n%s", address, n.lines)
		for _, family := range []string{"ipv4", "ipv6"} {
			what := "none"
			if slices.Contains(n.families, family) {
				what = "unicast"
			}
			conf += fmt.Sprintf("announce IP%s %s\n", strings.TrimPrefix(family, "ip"), what)
		}
		if n.password != "" {
			conf += fmt.Sprintf("tcp md5sig password %q\n", n.password)
		}
		conf += "}\n"
	}
	conf += "allow from any\n"
	if err := os.WriteFile(filepath.Join(o.dir, "bgpd.conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (o *openbgpd) bgpctl(args ...string) ([]byte, error) {
	var out bytes.Buffer
	cmd := exec.Command("bgpctl", append([]string{"-j", "-s", filepath.Join(o.dir, "ctl")}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.Bytes(), err
}

// show decodes what a show command prints.
func (o *openbgpd) show(t *testing.T, into any, args ...string) {
	t.Helper()
	out, err := o.bgpctl(append([]string{"show"}, args...)...)
	if err != nil {
		t.Fatalf("bgpctl %q: %v: %s", args, err, out)
	}
	if err := json.Unmarshal(out, into); err != nil {
		t.Fatalf("bgpctl %q: %v: %s", args, err, out)
	}
}

// change changes the neighbors, and has OpenBGPD follow.
func (o *openbgpd) change(t *testing.T, how func(map[string]openbgpdNeighbor)) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	how(o.neighbors)
	o.write(t)
	eventually(t, within, func() (bool, any) { // it takes one at a time
		out, err := o.bgpctl("reload")
		return err == nil && bytes.Contains(out, []byte(`"OK"`)), fmt.Sprint(string(out), err)
	})
}

// openbgpdTraits is how OpenBGPD is told them.
var openbgpdTraits = map[trait]string{
	onlyNear:      "ttl-security yes\n",
	farAway:       "multihop 5\n",
	oldRouter:     "announce capabilities no\n",
	provider:      "announce policy provider\n",
	customer:      "announce policy customer\n",
	peer:          "announce policy peer\n",
	routeServer:   "announce policy rs\n",
	rolesRequired: "announce policy provider enforce\n",
	twoRoutes:     "max-prefix 2\n",
}

// openbgpdLacks is what it does not have.
var openbgpdLacks = map[trait]string{
	helper:          "no graceful restart but End-of-RIB",
	watched:         "no BFD",
	withIPv6NextHop: "no RFC 8950",
}

func (o *openbgpd) as() uint32       { return openbgpdAS }
func (o *openbgpd) name() string     { return "openbgpd" }
func (o *openbgpd) space() namespace { return o.ns }

// pid is the process that OpenBGPD calls its session engine, and starts with -S.
func (o *openbgpd) pid(t *testing.T) int {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	same := func(dir string) bool {
		a, err := os.Readlink(dir + "/ns/net")
		b, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", int(o.ns)))
		return err == nil && a == b
	}
	for _, dir := range dirs {
		text, err := os.ReadFile(dir + "/cmdline")
		if err == nil && bytes.HasPrefix(text, []byte("bgpd\x00-S\x00")) && same(dir) {
			pid, err := strconv.Atoi(filepath.Base(dir))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatal("OpenBGPD has no session engine")
	return 0
}

func (o *openbgpd) neighbor(t *testing.T, family string, as uint32, traits ...trait) lb.BGPPeer {
	t.Helper()
	for _, trait := range traits {
		if why := openbgpdLacks[trait]; why != "" {
			lacks(t, o, why)
		}
	}
	source, router := o.sources.take(t, 6, family), "192.0.6.1"
	if family == "ipv6" {
		router = "2001:db8:6::1"
	}
	lines := fmt.Sprintf("remote-as %d\npassive\nholdtime 9\n", as)
	for _, trait := range traits {
		lines += openbgpdTraits[trait]
	}
	families := []string{family}
	if slices.Contains(traits, bothFamilies) {
		families = []string{"ipv4", "ipv6"}
	}
	o.change(t, func(all map[string]openbgpdNeighbor) {
		all[source.String()] = openbgpdNeighbor{lines: lines, families: families}
	})
	t.Cleanup(func() { o.change(t, func(all map[string]openbgpdNeighbor) { delete(all, source.String()) }) })
	judged(t, o.name(), true)
	return lb.BGPPeer{
		Name: strings.NewReplacer(".", "-", ":", "-").Replace(source.String()), MyASN: as, PeerASN: openbgpdAS,
		Address: netip.MustParseAddr(router), Source: source, HoldTime: 9 * time.Second, ConnectTime: time.Second,
	}
}

func (o *openbgpd) unnumbered(t *testing.T, _ string, _ ...trait) lb.BGPPeer {
	t.Helper()
	lacks(t, o, "does not show itself on an interface")
	return lb.BGPPeer{}
}

// renew takes the neighbor away and adds it again: its session goes on with what it
// began with, and only a new neighbor's key gets to the socket that OpenBGPD listens
// on.
func (o *openbgpd) renew(t *testing.T, p lb.BGPPeer, change func(*openbgpdNeighbor)) {
	t.Helper()
	var n openbgpdNeighbor
	o.change(t, func(all map[string]openbgpdNeighbor) {
		n = all[p.Source.String()]
		delete(all, p.Source.String())
	})
	change(&n)
	o.change(t, func(all map[string]openbgpdNeighbor) { all[p.Source.String()] = n })
}

func (o *openbgpd) carry(t *testing.T, p lb.BGPPeer, families ...string) {
	t.Helper()
	o.renew(t, p, func(n *openbgpdNeighbor) { n.families = families })
}

func (o *openbgpd) sign(t *testing.T, p lb.BGPPeer, password string) {
	t.Helper()
	o.renew(t, p, func(n *openbgpdNeighbor) { n.password = password })
}

// An openbgpdView is what OpenBGPD says of a neighbor.
type openbgpdView struct {
	State    string
	Shutdown string `json:"last_shutdown_reason"`
	Stats    struct{ Prefixes struct{ Received int } }
}

func (o *openbgpd) view(t *testing.T, p lb.BGPPeer) openbgpdView {
	t.Helper()
	var v struct{ Neighbors []openbgpdView }
	o.show(t, &v, "neighbor", p.Source.String())
	if len(v.Neighbors) != 1 {
		return openbgpdView{}
	}
	return v.Neighbors[0]
}

func (o *openbgpd) up(t *testing.T, p lb.BGPPeer) bool {
	t.Helper()
	return o.view(t, p).State == "Established"
}

// lastWord is what its log has of the neighbor: bgpctl forgets it when the session
// is waited for again.
func (o *openbgpd) lastWord(t *testing.T, p lb.BGPPeer) (last string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(o.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "neighbor "+p.Source.String()+": ") && strings.Contains(line, "notification") {
			last = strings.TrimSpace(line)
		}
	}
	return last + " " + o.view(t, p).Shutdown
}

func (o *openbgpd) count(t *testing.T, p lb.BGPPeer, _ string) int {
	t.Helper()
	return o.view(t, p).Stats.Prefixes.Received
}

// An openbgpdRoute is what OpenBGPD says of a route.
type openbgpdRoute struct {
	Prefix      string
	NextHop     netip.Addr `json:"exit_nexthop"`
	Best        bool
	LocalPref   uint32
	Metric      uint32
	Communities []string
}

func (o *openbgpd) rib(t *testing.T, args ...string) []openbgpdRoute {
	t.Helper()
	var v struct{ RIB []openbgpdRoute }
	o.show(t, &v, append([]string{"rib", "detail"}, args...)...)
	return v.RIB
}

func openbgpdFamily(family string) string {
	return map[string]string{"ipv4": "inet", "ipv6": "inet6"}[family]
}

func (o *openbgpd) prefixes(t *testing.T, p lb.BGPPeer, family string) []string {
	t.Helper()
	var all []string
	for _, r := range o.rib(t, openbgpdFamily(family), "neighbor", p.Source.String()) {
		all = append(all, r.Prefix)
	}
	return all
}

func (o *openbgpd) heard(t *testing.T, p lb.BGPPeer, prefix string) (heard, bool) {
	t.Helper()
	for _, r := range o.rib(t, openbgpdFamily(familyName(prefix)), "neighbor", p.Source.String()) {
		if r.Prefix != prefix {
			continue
		}
		h := heard{nextHop: r.NextHop, localPref: bgp.Some(r.LocalPref), med: bgp.Some(r.Metric)}
		for _, c := range r.Communities {
			if c == "GRACEFUL_SHUTDOWN" {
				c = lb.GracefulShutdown.String()
			}
			h.communities = strings.TrimSpace(h.communities + " " + c)
		}
		return h, true
	}
	return heard{}, false
}

// leads is what the best route of its RIB says.
func (o *openbgpd) leads(t *testing.T, prefix string) (all []string) {
	t.Helper()
	for _, r := range o.rib(t, openbgpdFamily(familyName(prefix)), "selected") {
		if r.Prefix == prefix && r.Best {
			all = append(all, r.NextHop.String())
		}
	}
	return all
}

func (o *openbgpd) print(t *testing.T, p lb.BGPPeer, prefix string) any {
	t.Helper()
	var v struct{ RIB []map[string]any }
	of := func(r map[string]any) bool { return r["prefix"] == prefix }
	// It has a route before it has found out where the next hop is.
	eventually(t, within, func() (bool, any) {
		v.RIB = nil
		o.show(t, &v, "rib", "detail", openbgpdFamily(familyName(prefix)), "neighbor", p.Source.String())
		i := slices.IndexFunc(v.RIB, of)
		return i < 0 || v.RIB[i]["valid"] == true, v.RIB
	})
	for _, r := range v.RIB {
		if !of(r) {
			continue
		}
		js, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		clear(r)
		if err := json.Unmarshal(bytes.ReplaceAll(js, []byte(p.Source.String()), []byte("OURS")), &r); err != nil {
			t.Fatal(err)
		}
		for _, changing := range []string{"last_update", "last_update_sec", "neighbor", "best"} {
			delete(r, changing)
		}
		return r
	}
	return nil
}

func (o *openbgpd) reset(t *testing.T, p lb.BGPPeer) {
	t.Helper()
	if out, err := o.bgpctl("neighbor", p.Source.String(), "clear"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func (o *openbgpd) refresh(t *testing.T, p lb.BGPPeer, _ string) {
	t.Helper()
	if out, err := o.bgpctl("neighbor", p.Source.String(), "refresh"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
