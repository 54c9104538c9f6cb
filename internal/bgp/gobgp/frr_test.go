package gobgp

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/lb"
)

// A frr is FRR's zebra and bgpd at 192.0.2.1 and 2001:db8:2::1, AS 65001.
type frr struct {
	dir     string
	ns      namespace
	sources *sources
	// mu serializes configuration; FRR locks it.
	mu sync.Mutex
}

const frrAS = 65001

var (
	frr4 = netip.MustParseAddr("192.0.2.1")
	frr6 = netip.MustParseAddr("2001:db8:2::1")
)

func needFRR(t *testing.T) *frr {
	t.Helper()
	need(t, "/usr/lib/frr/bgpd", "/usr/lib/frr/zebra", "vtysh")
	lab.mu.Lock()
	defer lab.mu.Unlock()
	if lab.frr != nil {
		return lab.frr
	}
	// 2 for sessions between addresses, 4 for unnumbered ones.
	dir, ns := lab.room(t, "belfry-frr-", 2, 4)
	// Its daemons give up being root.
	if err := run("chown", "frr:frr", dir); err != nil {
		t.Fatal(err)
	}
	f := &frr{dir: dir, ns: ns, sources: newSources()}
	for _, d := range []struct{ name, conf string }{
		{"zebra", ""},
		{"bfdd", ""},
		{"bgpd", fmt.Sprintf("ip prefix-list nothing seq 5 deny any\nipv6 prefix-list nothing seq 5 deny any\nrouter bgp %d\n bgp router-id 192.0.2.1\n no bgp ebgp-requires-policy\n no bgp network import-check\n", frrAS)},
	} {
		if err := os.WriteFile(filepath.Join(dir, d.name+".conf"), []byte(d.conf), 0o644); err != nil {
			t.Fatal(err)
		}
		f.start(t, d.name)
	}
	lab.frr = f
	return f
}

// start starts one of FRR's daemons.
func (f *frr) start(t *testing.T, name string) {
	t.Helper()
	args := []string{
		"/usr/lib/frr/" + name, "-u", "frr", "-g", "frr", "-f", filepath.Join(f.dir, name+".conf"), "-i", filepath.Join(f.dir, name+".pid"),
		"-z", filepath.Join(f.dir, "zserv.api"), "--vty_socket", f.dir,
	}
	if name == "bfdd" {
		args = append(args, "--bfdctl", filepath.Join(f.dir, "bfdd.sock"))
	}
	_, err := lab.daemon(f.ns, filepath.Join(f.dir, name+".log"), args...)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, within, func() (bool, any) {
		_, err := f.vtysh("show version")
		_, missing := os.Stat(filepath.Join(f.dir, name+".vty"))
		return err == nil && missing == nil, fmt.Sprint(err, missing)
	})
}

func (f *frr) vtysh(commands ...string) ([]byte, error) {
	args := []string{"vtysh", "--vty_socket", f.dir}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	cmd := exec.Command(args[0], args[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("vtysh %q: %w: %s%s", commands, err, out, stderr.Bytes())
	}
	return out, nil
}

// configure enters commands below "router bgp".
func (f *frr) configure(t *testing.T, lines ...string) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if out, err := f.vtysh(append([]string{"configure terminal", fmt.Sprintf("router bgp %d", frrAS)}, lines...)...); err != nil {
		t.Fatal(err)
	} else if bytes.Contains(out, []byte("%")) {
		t.Fatalf("%q: %s", lines, out)
	}
}

// show decodes what a show command prints as JSON.
func (f *frr) show(t *testing.T, command string) map[string]any {
	t.Helper()
	out, err := f.vtysh(command + " json")
	if err != nil {
		t.Fatal(err)
	}
	v := map[string]any{}
	if err := json.Unmarshal(out, &v); err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
	return v
}

// frrTraits is how FRR is told them. It helps whoever wants graceful restart, as
// long as that is not said neighbor by neighbor: then FRR 8.4 forgets to wait once
// it has been up for a while.
var frrTraits = map[trait][]string{
	onlyNear:        {"ttl-security hops 1"},
	farAway:         {"ebgp-multihop 5"},
	watched:         {"bfd 3 100 100"},
	withIPv6NextHop: {"capability extended-nexthop"},
	oldRouter:       {"dont-capability-negotiate"},
	provider:        {"local-role provider"},
	customer:        {"local-role customer"},
	peer:            {"local-role peer"},
	routeServer:     {"local-role rs-server"},
	rolesRequired:   {"local-role provider strict-mode"},
}

func (f *frr) name() string         { return "frr" }
func (f *frr) as() uint32           { return frrAS }
func (f *frr) space() namespace     { return f.ns }
func (f *frr) pid(t *testing.T) int { return readPID(t, filepath.Join(f.dir, "bgpd.pid")) }

func (f *frr) neighbor(t *testing.T, family string, as uint32, traits ...trait) lb.BGPPeer {
	t.Helper()
	source := f.sources.take(t, 2, family)
	n := "neighbor " + source.String() + " "
	conf := []string{n + fmt.Sprintf("remote-as %d", as), n + "timers connect 1", n + "timers 3 9"}
	if family == "ipv6" && slices.Contains(traits, bothFamilies) && !slices.Contains(traits, withIPv6NextHop) {
		conf = append(conf, "no "+n+"capability extended-nexthop", n+"disable-connected-check")
	}
	families := []string{family}
	for _, trait := range traits {
		for _, line := range frrTraits[trait] {
			conf = append(conf, n+line)
		}
		if trait == bothFamilies {
			families = []string{"ipv4", "ipv6"}
		}
	}
	for _, family := range families {
		conf = append(conf, "address-family "+family+" unicast", n+"activate")
		if slices.Contains(traits, helper) {
			// As docs/how-to/routers.md has it: nodes need not hear of any route.
			conf = append(conf, n+"prefix-list nothing out")
		}
		if slices.Contains(traits, twoRoutes) {
			conf = append(conf, n+"maximum-prefix 2")
		}
		conf = append(conf, "exit-address-family")
	}
	f.configure(t, conf...)
	t.Cleanup(func() { f.configure(t, "no "+strings.TrimSpace(n)) })
	judged(t, f.name(), true)
	p := lb.BGPPeer{
		Name: strings.NewReplacer(".", "-", ":", "-").Replace(source.String()), MyASN: as, PeerASN: frrAS,
		Address: frr4, Source: source, HoldTime: 9 * time.Second, ConnectTime: time.Second,
	}
	if family == "ipv6" {
		p.Address = frr6
	}
	return p
}

func (f *frr) unnumbered(t *testing.T, password string, traits ...trait) lb.BGPPeer {
	t.Helper()
	const n = "neighbor rtr4 "
	conf := []string{n + "interface remote-as 65000", n + "timers 3 9", n + "timers connect 1"}
	if password != "" {
		conf = append(conf, n+"password "+password)
	}
	for _, trait := range traits {
		for _, line := range frrTraits[trait] {
			conf = append(conf, n+line)
		}
	}
	for _, family := range []string{"ipv4", "ipv6"} {
		conf = append(conf, "address-family "+family+" unicast", n+"activate", "exit-address-family")
	}
	f.configure(t, conf...)
	t.Cleanup(func() { f.configure(t, "no neighbor rtr4 interface remote-as 65000") })
	judged(t, f.name(), true)
	return lb.BGPPeer{
		Name: "unnumbered", MyASN: 65000, PeerASN: frrAS, Interface: "node4", HoldTime: 9 * time.Second,
		ConnectTime: time.Second, Password: lb.NewSecret(password),
	}
}

// key is FRR's name for a neighbor.
func (f *frr) key(p lb.BGPPeer) string {
	if p.Interface != "" {
		return "rtr4"
	}
	return p.Source.String()
}

// is reports whether FRR names a peer so in what it says of routes. There is one
// unnumbered peer at a time.
func is(p lb.BGPPeer, id string) bool {
	return id == p.Source.String() || p.Interface != "" && strings.HasPrefix(id, "fe80:")
}

func (f *frr) carry(t *testing.T, p lb.BGPPeer, families ...string) {
	t.Helper()
	var conf []string
	for _, family := range []string{"ipv4", "ipv6"} {
		no := "no "
		if slices.Contains(families, family) {
			no = ""
		}
		conf = append(conf, "address-family "+family+" unicast", no+"neighbor "+f.key(p)+" activate", "exit-address-family")
	}
	f.configure(t, conf...)
}

func (f *frr) sign(t *testing.T, p lb.BGPPeer, password string) {
	t.Helper()
	f.configure(t, "neighbor "+f.key(p)+" password "+password)
}

// state returns FRR's view of a neighbor.
func (f *frr) state(t *testing.T, p lb.BGPPeer) map[string]any {
	t.Helper()
	v, _ := f.show(t, "show bgp neighbors "+f.key(p))[f.key(p)].(map[string]any)
	return v
}

func (f *frr) up(t *testing.T, p lb.BGPPeer) bool {
	t.Helper()
	return f.state(t, p)["bgpState"] == "Established"
}

func (f *frr) lastWord(t *testing.T, p lb.BGPPeer) string {
	t.Helper()
	v := f.state(t, p)
	return fmt.Sprint(v["lastResetDueTo"], ", ", v["lastNotificationReason"], " ", v["lastShutdownDescription"], " ", v["gracefulRestartInfo"])
}

func (f *frr) count(t *testing.T, p lb.BGPPeer, family string) int {
	t.Helper()
	v, _ := f.state(t, p)["addressFamilyInfo"].(map[string]any)
	of, _ := v[family+"Unicast"].(map[string]any)
	n, _ := of["acceptedPrefixCounter"].(float64)
	return int(n)
}

func (f *frr) prefixes(t *testing.T, p lb.BGPPeer, family string) []string {
	t.Helper()
	// Those of a neighbor that is waited for are in the table only.
	js, err := f.vtysh("show bgp " + family + " unicast json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Routes map[string][]struct{ PeerID string }
	}
	if err := json.Unmarshal(js, &v); err != nil {
		t.Fatalf("%v: %s", err, js)
	}
	var all []string
	for prefix, paths := range v.Routes {
		for _, path := range paths {
			if is(p, path.PeerID) {
				all = append(all, prefix)
			}
		}
	}
	return all
}

func (f *frr) heard(t *testing.T, p lb.BGPPeer, prefix string) (heard, bool) {
	t.Helper()
	js, err := f.vtysh("show bgp " + familyName(prefix) + " unicast " + prefix + " json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Paths []struct {
			LocPrf, Metric *uint32
			Community      struct{ String string }
			Nexthops       []struct{ IP netip.Addr }
			Peer           struct{ PeerID string }
		}
	}
	if err := json.Unmarshal(js, &v); err != nil {
		t.Fatalf("%v: %s", err, js)
	}
	for _, path := range v.Paths {
		if !is(p, path.Peer.PeerID) {
			continue
		}
		h := heard{communities: path.Community.String}
		if len(path.Nexthops) > 0 {
			h.nextHop = path.Nexthops[0].IP
		}
		if path.LocPrf != nil {
			h.localPref = bgp.Some(*path.LocPrf)
		}
		if path.Metric != nil {
			h.med = bgp.Some(*path.Metric)
		}
		return h, true
	}
	return heard{}, false
}

func (f *frr) leads(_ *testing.T, prefix string) []string { return vias(f.ns, prefix) }

func (f *frr) print(t *testing.T, p lb.BGPPeer, prefix string) any {
	t.Helper()
	out := f.show(t, "show bgp "+familyName(prefix)+" unicast "+prefix)
	js, _ := json.Marshal(out)
	clear(out)
	if err := json.Unmarshal(bytes.ReplaceAll(js, []byte(p.Source.String()), []byte("OURS")), &out); err != nil {
		t.Fatal(err)
	}
	return stable(out)
}

// stable drops from what FRR prints what is different each time.
func stable(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for _, k := range []string{"lastUpdate", "version", "tableVersion", "advertisedTo", "peer", "bestpath", "valid", "sourced", "processScheduled"} {
			delete(v, k)
		}
		for k, e := range v {
			v[k] = stable(e)
		}
	case []any:
		for i, e := range v {
			v[i] = stable(e)
		}
	}
	return v
}

func (f *frr) reset(t *testing.T, p lb.BGPPeer) {
	t.Helper()
	if _, err := f.vtysh("clear bgp " + f.key(p)); err != nil {
		t.Fatal(err)
	}
}

func (f *frr) refresh(t *testing.T, p lb.BGPPeer, family string) {
	t.Helper()
	if _, err := f.vtysh("clear bgp " + family + " unicast " + f.key(p) + " soft in"); err != nil {
		t.Fatal(err)
	}
}
