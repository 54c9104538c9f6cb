package gobgp

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/lb"
)

// A bird is BIRD at 192.0.3.1 and 2001:db8:3::1, AS 65002. Its configuration is
// one file, of a part for each neighbor.
type bird struct {
	dir     string
	ns      namespace
	sources *sources
	// mu guards what follows, and the file.
	mu    sync.Mutex
	parts map[string]birdPart
	last  int
	// bfd is how it runs BFD, with all neighbors.
	bfd string
}

// A birdPart is what BIRD is told of one neighbor.
type birdPart struct{ lines, password string }

const birdAS = 65002

func needBIRD(t *testing.T) *bird {
	t.Helper()
	need(t, "bird", "birdc")
	lab.mu.Lock()
	defer lab.mu.Unlock()
	if lab.bird != nil {
		return lab.bird
	}
	// 3 for sessions between addresses, 5 for unnumbered ones.
	dir, ns := lab.room(t, "belfry-bird-", 3, 5)
	b := &bird{dir: dir, ns: ns, sources: newSources(), parts: map[string]birdPart{}, bfd: birdBFD}
	b.write(t)
	if _, err := lab.daemon(ns, filepath.Join(dir, "log"), "bird", "-f", "-c", filepath.Join(dir, "bird.conf"), "-s", filepath.Join(dir, "ctl"), "-P", filepath.Join(dir, "pid")); err != nil {
		t.Fatal(err)
	}
	eventually(t, within, func() (bool, any) {
		out, err := b.birdc("show status")
		return err == nil, fmt.Sprint(out, err)
	})
	lab.bird = b
	return b
}

// birdHead is what BIRD is told beside its neighbors. It needs the direct routes
// to find the next hops of neighbors that may be far away, which internal ones
// are; it tells of itself on the wire of unnumbered sessions.
const birdHead = `router id 192.0.3.1;
log stderr all;
debug protocols { states, events };
protocol device {}
protocol direct { ipv4; ipv6; }
protocol kernel { ipv4 { export where source = RTS_BGP; }; merge paths on; }
protocol kernel { ipv6 { export where source = RTS_BGP; }; merge paths on; }
protocol radv { interface "rtr5" { min ra interval 3; max ra interval 4; default lifetime 0; }; }
`

const birdBFD = `interface "*" { interval 100 ms; multiplier 3; }; multihop { interval 100 ms; multiplier 3; };`

func (b *bird) write(t *testing.T) {
	t.Helper()
	conf := birdHead + "protocol bfd { " + b.bfd + " }\n"
	for _, name := range slices.Sorted(maps.Keys(b.parts)) {
		part := b.parts[name]
		conf += fmt.Sprintf("protocol bgp %s {\n%s\n", name, part.lines)
		if part.password != "" {
			conf += fmt.Sprintf("password %q;\n", part.password)
		}
		conf += "}\n"
	}
	if err := os.WriteFile(filepath.Join(b.dir, "bird.conf"), []byte(conf), 0o644); err != nil {
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

func (b *bird) ask(t *testing.T, command string) string {
	t.Helper()
	out, err := b.birdc(command)
	for strings.Contains(out, "Stopped due to reconfiguration") { // for another test
		out, err = b.birdc(command)
	}
	if err != nil {
		t.Fatalf("birdc %s: %v: %s", command, err, out)
	}
	return out
}

// change changes the neighbors, and has BIRD follow.
func (b *bird) change(t *testing.T, how func(map[string]birdPart)) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	how(b.parts)
	b.write(t)
	if out := b.ask(t, "configure"); !strings.Contains(out, "Reconfigur") {
		t.Fatal(out)
	}
}

// add adds a neighbor for this test, under a name that it returns.
func (b *bird) add(t *testing.T, part birdPart) (name string) {
	t.Helper()
	b.change(t, func(parts map[string]birdPart) {
		b.last++
		name = fmt.Sprintf("p%d", b.last)
		parts[name] = part
	})
	t.Cleanup(func() { b.change(t, func(parts map[string]birdPart) { delete(parts, name) }) })
	return name
}

// birdTraits is how BIRD is told them. It helps whoever wants graceful restart.
var birdTraits = map[trait]string{
	onlyNear:      "ttl security on;",
	farAway:       "multihop 5;",
	watched:       "bfd on;",
	oldRouter:     "capabilities off;",
	provider:      "local role provider;",
	customer:      "local role customer;",
	peer:          "local role peer;",
	routeServer:   "local role rs_server;",
	rolesRequired: "local role provider; require roles on;",
}

const birdTimers = "passive on; hold time 9; error wait time 1, 2;\n"

func (b *bird) name() string         { return "bird" }
func (b *bird) as() uint32           { return birdAS }
func (b *bird) space() namespace     { return b.ns }
func (b *bird) pid(t *testing.T) int { return readPID(t, filepath.Join(b.dir, "pid")) }

func (b *bird) neighbor(t *testing.T, family string, as uint32, traits ...trait) lb.BGPPeer {
	t.Helper()
	source, router := b.sources.take(t, 3, family), "192.0.3.1"
	if family == "ipv6" {
		router = "2001:db8:3::1"
	}
	lines := fmt.Sprintf("local %s as %d; neighbor %s as %d; %s", router, birdAS, source, as, birdTimers)
	if as == birdAS && !slices.Contains(traits, farAway) {
		lines += "direct;" // it takes internal neighbors for far away
	}
	families := []string{family}
	for _, trait := range traits {
		lines += birdTraits[trait]
		if trait == bothFamilies {
			families = []string{"ipv4", "ipv6"}
		}
	}
	lines += birdChannels(slices.Contains(traits, withIPv6NextHop), families...)
	if slices.Contains(traits, twoRoutes) {
		lines = strings.ReplaceAll(lines, "import all;", "import all; receive limit 2 action disable;")
	}
	judged(t, b.name(), true)
	return lb.BGPPeer{
		Name: b.add(t, birdPart{lines: lines}), MyASN: as, PeerASN: birdAS, Address: netip.MustParseAddr(router), Source: source,
		HoldTime: 9 * time.Second, ConnectTime: time.Second,
	}
}

// birdChannels are the lines of a session's families.
func birdChannels(extended bool, families ...string) (lines string) {
	for _, family := range families {
		lines += "\n" + family + " { import all; export none; "
		if extended && family == "ipv4" {
			lines += "extended next hop on; "
		}
		lines += "};"
	}
	return lines
}

// unnumbered has to tell BIRD our address, which it does not find by itself.
func (b *bird) unnumbered(t *testing.T, password string, traits ...trait) lb.BGPPeer {
	t.Helper()
	link, err := net.InterfaceByName("node5")
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := link.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(addrs, func(a net.Addr) bool { return strings.HasPrefix(a.String(), "fe80:") })
	if i < 0 {
		t.Fatalf("node5 has no link-local address, but %v", addrs)
	}
	ours, _, _ := strings.Cut(addrs[i].String(), "/")
	lines := fmt.Sprintf("local as %d; neighbor %s%%'rtr5' as 65000; %s", birdAS, ours, birdTimers)
	for _, trait := range traits {
		lines += birdTraits[trait]
	}
	lines += birdChannels(true, "ipv4", "ipv6")
	judged(t, b.name(), true)
	return lb.BGPPeer{
		Name: b.add(t, birdPart{lines, password}), MyASN: 65000, PeerASN: birdAS, Interface: "node5", HoldTime: 9 * time.Second,
		ConnectTime: time.Second, Password: lb.NewSecret(password),
	}
}

func (b *bird) carry(t *testing.T, p lb.BGPPeer, families ...string) {
	t.Helper()
	b.change(t, func(parts map[string]birdPart) {
		part := parts[p.Name]
		head, _, _ := strings.Cut(part.lines, "\nipv")
		parts[p.Name] = birdPart{head + birdChannels(false, families...), part.password}
	})
}

func (b *bird) sign(t *testing.T, p lb.BGPPeer, password string) {
	t.Helper()
	b.change(t, func(parts map[string]birdPart) {
		parts[p.Name] = birdPart{parts[p.Name].lines, password}
	})
}

func (b *bird) up(t *testing.T, p lb.BGPPeer) bool {
	t.Helper()
	return regexp.MustCompile(`(?m)^  BGP state: +Established$`).MatchString(b.ask(t, "show protocols all "+p.Name))
}

func (b *bird) lastWord(t *testing.T, p lb.BGPPeer) string {
	t.Helper()
	text := b.ask(t, "show protocols all "+p.Name)
	if all := regexp.MustCompile(`(?m)^ +(Last error|Message): +(.*)$`).FindAllString(text, -1); len(all) > 0 {
		return strings.Join(all, " ")
	}
	// A protocol that is down at the moment when BIRD is reconfigured, for whichever
	// neighbor, is made anew (proto_reconfigure of nest/proto.c), and the new one has no
	// last error. What the old one was told is in the log.
	said := ""
	logged, _ := os.ReadFile(filepath.Join(b.dir, "log"))
	for line := range strings.Lines(string(logged)) {
		if strings.Contains(line, " "+p.Name+": ") || strings.Contains(line, "protocol "+p.Name+"\n") || strings.Contains(line, "Reconfigur") {
			text += line
		}
		if _, word, ok := strings.Cut(line, "<RMT> "+p.Name+": "); ok {
			said = word
		}
	}
	if said != "" {
		return said
	}
	return "no error: " + text
}

func (b *bird) count(t *testing.T, p lb.BGPPeer, family string) int {
	t.Helper()
	out := b.ask(t, "show route protocol "+p.Name+" table "+birdTable(family)+" count")
	m := regexp.MustCompile(`(?m)^(\d+) of `).FindStringSubmatch(out)
	if m == nil {
		t.Fatal(out)
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

func birdTable(family string) string { return "master" + strings.TrimPrefix(family, "ipv") }

func (b *bird) prefixes(t *testing.T, p lb.BGPPeer, family string) []string {
	t.Helper()
	out := b.ask(t, "show route protocol "+p.Name+" table "+birdTable(family))
	var all []string
	for _, m := range regexp.MustCompile(`(?m)^(\S+/\d+) `).FindAllStringSubmatch(out, -1) {
		all = append(all, m[1])
	}
	return all
}

// details returns what BIRD prints of a prefix from a neighbor, by line.
func (b *bird) details(t *testing.T, p lb.BGPPeer, prefix string) []string {
	t.Helper()
	out, err := b.birdc("show route " + prefix + " all protocol " + p.Name)
	if err != nil { // there is no such route, or another test has BIRD reconfigured
		return nil
	}
	return strings.Split(strings.TrimSpace(out), "\n")
}

func (b *bird) heard(t *testing.T, p lb.BGPPeer, prefix string) (h heard, ok bool) {
	t.Helper()
	number := func(text string) bgp.Metric {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		return bgp.Some(uint32(n))
	}
	for _, line := range b.details(t, p, prefix) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch key {
		case "BGP.next_hop":
			ok = true
			// The global one and the link-local one, of which one may be missing.
			h.nextHop = netip.MustParseAddr(strings.Fields(strings.TrimPrefix(value, ":: "))[0])
		case "BGP.local_pref":
			h.localPref = number(value)
		case "BGP.med":
			h.med = number(value)
		case "BGP.community":
			var all []string
			for _, m := range regexp.MustCompile(`\((\d+),(\d+)\)`).FindAllStringSubmatch(value, -1) {
				all = append(all, lb.Community{A: number(m[1]).Value, B: number(m[2]).Value}.String())
			}
			h.communities = strings.Join(all, " ")
		}
	}
	return h, ok
}

func (b *bird) leads(_ *testing.T, prefix string) []string { return vias(b.ns, prefix) }

func (b *bird) print(t *testing.T, p lb.BGPPeer, prefix string) any {
	t.Helper()
	lines := b.details(t, p, prefix)
	// The time of day and the protocol's name differ; so does whose route is the
	// best, when others speak of the prefix.
	label := regexp.MustCompile(`\[` + p.Name + ` [^\]]*\]( \*)?`)
	for i, line := range lines {
		lines[i] = strings.ReplaceAll(label.ReplaceAllString(line, "[PROTOCOL TIME]"), p.Source.String(), "OURS")
	}
	return lines
}

func (b *bird) reset(t *testing.T, p lb.BGPPeer) {
	t.Helper()
	b.ask(t, "restart "+p.Name)
}

func (b *bird) refresh(t *testing.T, p lb.BGPPeer, _ string) {
	t.Helper()
	b.ask(t, "reload in "+p.Name)
}
