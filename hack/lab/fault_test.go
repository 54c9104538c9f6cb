package lab_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/hack/lab"
)

// arping asks from a host for another's IPv4 address and returns how many
// answers came to count questions.
func arping(t *testing.T, l *lab.Lab, from, to string, count int) int {
	t.Helper()
	v4, _ := l.Network.Addresses(to)
	out, err := l.Network.Exec(t.Context(), from, "arping", "-b", "-c", strconv.Itoa(count), "-w", "1", "-I", lab.NIC, v4.String())
	m := regexp.MustCompile(`Received (\d+) response`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("arping printed %q: %v", out, err)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// reaches asks by arping until the answer is what it should be.
func reaches(t *testing.T, l *lab.Lab, from, to string, want bool) {
	t.Helper()
	eventually(t, 5*time.Second, func() error {
		if got := arping(t, l, from, to, 1) > 0; got != want {
			return fmt.Errorf("%s reaches %s: %t, want %t", from, to, got, want)
		}
		return nil
	})
}

func carrier(t *testing.T, l *lab.Lab, host string) bool {
	t.Helper()
	out, err := l.Network.Exec(t.Context(), host, "ip", "-brief", "link", "show", lab.NIC)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(out, "LOWER_UP")
}

// carrierChanges is how often the kernel saw a host's carrier come or go.
func carrierChanges(t *testing.T, l *lab.Lab, host string) int {
	t.Helper()
	out, err := l.Network.Exec(t.Context(), host, "ip", "-json", "-stats", "-stats", "link", "show", lab.NIC)
	must(t, err)
	var links []struct {
		Stats64 struct {
			TX struct {
				CarrierChanges int `json:"carrier_changes"`
			}
		}
	}
	must(t, json.Unmarshal([]byte(out), &links))
	return links[0].Stats64.TX.CarrierChanges
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestACutLinkLosesCarrierAndTraffic(t *testing.T) {
	l := shared.Get(t)
	reaches(t, l, lab.Client, "node1", true)
	must(t, l.Network.CutLink(t.Context(), "node1"))
	t.Cleanup(func() { must(t, l.Network.HealLink(context.Background(), "node1")) })
	if carrier(t, l, "node1") {
		t.Error("node1 has carrier on a cut link")
	}
	reaches(t, l, lab.Client, "node1", false)
	reaches(t, l, lab.Client, "node2", true)
	must(t, l.Network.HealLink(t.Context(), "node1"))
	reaches(t, l, lab.Client, "node1", true)
	if !carrier(t, l, "node1") {
		t.Error("node1 has no carrier after healing")
	}
}

func TestAPartitionSeparatesItsGroupsOnly(t *testing.T) {
	l := shared.Get(t)
	must(t, l.Network.Partition(t.Context(), []string{"node1", lab.Client}, []string{"node2"}))
	t.Cleanup(func() { must(t, l.Network.HealNetwork(context.Background())) })
	reaches(t, l, "node1", lab.Client, true)
	reaches(t, l, "node1", "node2", false)
	reaches(t, l, "node2", "node1", false)
	reaches(t, l, "node1", "node3", true)
	reaches(t, l, "node2", "node3", true)
	if !carrier(t, l, "node2") {
		t.Error("a partition behind the switch took node2's carrier")
	}
	must(t, l.Network.HealNetwork(t.Context()))
	reaches(t, l, "node1", "node2", true)
}

func TestABlockIsOneWay(t *testing.T) {
	l := shared.Get(t)
	must(t, l.Network.Block(t.Context(), []string{"node1"}, []string{lab.Client}))
	t.Cleanup(func() { must(t, l.Network.HealNetwork(context.Background())) })
	// Questions still arrive: tcpdump on node1 sees what the client asks,
	// although the client hears no answer.
	dump := l.Network.Command(t.Context(), "node1", "tcpdump", "-c", "1", "-nl", "-i", lab.NIC, "arp and src 198.51.100.3")
	out := new(strings.Builder)
	dump.Stdout = out
	must(t, dump.Start())
	heard := make(chan error, 1)
	go func() { heard <- dump.Wait() }()
	t.Cleanup(func() { _ = dump.Process.Kill() })
	answers := 0
	deadline := time.Now().Add(10 * time.Second)
	for waiting := true; waiting; {
		if time.Now().After(deadline) {
			t.Fatal("node1 heard no question in 10 s")
		}
		answers += arping(t, l, lab.Client, "node1", 3)
		select {
		case err := <-heard:
			if err != nil {
				t.Errorf("node1 heard no question: %v", err)
			}
			waiting = false
		default:
		}
	}
	if answers > 0 {
		t.Errorf("the client heard %d answers through a block", answers)
	}
	if !strings.Contains(out.String(), "who-has 198.51.100.11") {
		t.Errorf("tcpdump on node1 printed %q", out)
	}
}

func TestLossTakesItsShare(t *testing.T) {
	l := shared.Get(t)
	must(t, l.Network.Lose(t.Context(), []string{"node1"}, []string{lab.Client}, 0.5))
	t.Cleanup(func() { must(t, l.Network.HealNetwork(context.Background())) })
	v4, _ := l.Network.Addresses(lab.Client)
	before := udpNoPorts(t, l, lab.Client)
	const sent = 200
	_, err := l.Network.Exec(t.Context(), "node1", "bash", "-c", fmt.Sprintf("for i in $(seq %d); do echo >/dev/udp/%s/9; done", sent, v4))
	must(t, err)
	// 200 draws of one half: beyond 50 and 150 less than once in 10^11 times.
	eventually(t, 5*time.Second, func() error {
		if got := udpNoPorts(t, l, lab.Client) - before; got < 50 || got > 150 {
			return fmt.Errorf("%d of %d datagrams came through a loss of one half", got, sent)
		}
		return nil
	})
}

// udpNoPorts is how many datagrams for ports that nobody listens on a host's
// kernel has counted.
func udpNoPorts(t *testing.T, l *lab.Lab, host string) int {
	t.Helper()
	out, err := l.Network.Exec(t.Context(), host, "grep", "^Udp: [0-9]", "/proc/net/snmp")
	must(t, err)
	var datagrams, noPorts int
	if _, err := fmt.Sscanf(out, "Udp: %d %d", &datagrams, &noPorts); err != nil {
		t.Fatalf("/proc/net/snmp has %q: %v", out, err)
	}
	return noPorts
}

func TestAFaultThatMakesNoSenseIsRefused(t *testing.T) {
	l := shared.Get(t)
	for what, err := range map[string]error{
		"unknown host":  l.Network.Block(t.Context(), []string{"node9"}, []string{"node1"}),
		"nobody":        l.Network.Block(t.Context(), nil, []string{"node1"}),
		"share above 1": l.Network.Lose(t.Context(), []string{"node1"}, []string{"node2"}, 5),
		"no such host":  l.Network.CutLink(t.Context(), "node9"),
	} {
		if err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

func TestAChangedMACIsSeenAndKnown(t *testing.T) {
	l := shared.Get(t)
	v4, v6 := l.Network.Addresses("node2")
	before, err := l.Observers.Resolve(t.Context(), v4)
	must(t, err)
	if len(before) != 1 {
		t.Fatalf("%v answer for node2", before)
	}
	mac := net.HardwareAddr{0x02, 0xbe, 0x1f, 0, 1, 0x02}
	must(t, l.Network.ChangeMAC(t.Context(), "node2", mac))
	t.Cleanup(func() { must(t, l.Network.ChangeMAC(context.Background(), "node2", before[0])) })
	for _, address := range []netip.Addr{v4, v6} {
		after, err := l.Observers.Resolve(t.Context(), address)
		must(t, err)
		if len(after) != 1 || !slices.Equal(after[0], mac) {
			t.Errorf("%v answers for %s, want %s", after, address, mac)
		}
		hosts, err := l.Observers.Resolvers(t.Context(), address)
		must(t, err)
		if !slices.Equal(hosts, []string{"node2"}) {
			t.Errorf("%s is known as %v, want node2", mac, hosts)
		}
	}
}

func TestAFlapEndsWithAddressesAndRoutesRestored(t *testing.T) {
	l := shared.Get(t)
	facts := func() string {
		var all []string
		for _, args := range [][]string{{"-4", "route"}, {"-6", "route"}, {"-brief", "address", "show", lab.NIC}} {
			out, err := l.Network.Exec(t.Context(), "node3", append([]string{"ip"}, args...)...)
			must(t, err)
			lines := strings.Split(strings.TrimSpace(out), "\n")
			slices.Sort(lines)
			all = append(all, lines...)
		}
		return strings.Join(all, "\n")
	}
	before, changes := facts(), carrierChanges(t, l, "node3")
	must(t, l.Network.Flap(t.Context(), "node3", 200*time.Millisecond))
	eventually(t, 5*time.Second, func() error {
		if after := facts(); after != before {
			return fmt.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
		return nil
	})
	if n := carrierChanges(t, l, "node3") - changes; n != 2 {
		t.Errorf("the carrier changed %d times, want down and up", n)
	}
	reaches(t, l, lab.Client, "node3", true)
}

func TestAPausedAPIServerAnswersNothingAndGoesOn(t *testing.T) {
	l := shared.Get(t)
	ask := func(limit time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		_, err := l.Network.Exec(ctx, lab.Client, "curl", "--silent", "--insecure", "--max-time", "10", l.Cluster.Server()+"/readyz")
		return err
	}
	must(t, ask(10*time.Second))
	must(t, l.Cluster.PauseAPI())
	t.Cleanup(func() { must(t, l.Cluster.ResumeAPI()) })
	if err := ask(500 * time.Millisecond); err == nil {
		t.Error("a paused API server answered")
	}
	must(t, l.Cluster.ResumeAPI())
	must(t, ask(10*time.Second))
}

func TestAPoweredOffNodeRunsNothingUntilItIsPoweredOn(t *testing.T) {
	l := shared.Get(t)
	proxy, err := l.Processes.Process("kube-proxy/node1")
	must(t, err)
	old := proxy.PID()
	t.Cleanup(func() { must(t, l.Machines.PowerOn(context.Background(), "node1")) })
	must(t, l.Machines.PowerOff(t.Context(), "node1"))
	if proxy.Alive() {
		t.Error("kube-proxy runs on a node without power")
	}
	out, err := l.Network.Exec(t.Context(), "", "ps", "-o", "stat=", "-p", strconv.Itoa(old))
	if err == nil && !strings.HasPrefix(strings.TrimSpace(out), "Z") {
		t.Errorf("ps still shows kube-proxy: %q", out)
	}
	reaches(t, l, lab.Client, "node1", false)
	must(t, l.Machines.PowerOn(t.Context(), "node1"))
	reaches(t, l, lab.Client, "node1", true)
	if !proxy.Alive() || proxy.PID() == old {
		t.Errorf("kube-proxy after power on: running %t, pid %d, before %d", proxy.Alive(), proxy.PID(), old)
	}
}

func TestAPausedProcessStaysAndResumes(t *testing.T) {
	l := shared.Get(t)
	proxy, err := l.Processes.Process("kube-proxy/node2")
	must(t, err)
	state := func() string {
		out, err := l.Network.Exec(t.Context(), "", "ps", "-o", "stat=", "-p", strconv.Itoa(proxy.PID()))
		must(t, err)
		return strings.TrimSpace(out)
	}
	must(t, proxy.Pause())
	t.Cleanup(func() { must(t, proxy.Resume()) })
	eventually(t, 5*time.Second, func() error {
		if s := state(); !strings.HasPrefix(s, "T") {
			return fmt.Errorf("ps shows %q, want T (stopped)", s)
		}
		return nil
	})
	if !proxy.Alive() {
		t.Error("a stopped process counts as gone")
	}
	must(t, proxy.Resume())
	eventually(t, 5*time.Second, func() error {
		if s := state(); strings.HasPrefix(s, "T") {
			return fmt.Errorf("ps shows %q after resuming", s)
		}
		return nil
	})
}

// What a planned change loses must be its own. A node goes on sending to a dead
// backend whatever comes from a port that it was asked from, until it forgets: when
// it is told to, or after net.netfilter.nf_conntrack_tcp_timeout_syn_sent.
func TestAPortIsSentToADeadBackendUntilTheNodeForgets(t *testing.T) {
	l := shared.Get(t)
	must(t, l.Machines.Deploy(t.Context(), "default", "reached", 3))
	t.Cleanup(func() { _, _ = l.Cluster.Kubectl(context.Background(), "delete", "deployment", "reached") })
	v4, v6 := l.Network.Addresses("node1")
	out, err := l.Cluster.Kubectl(t.Context(), "get", "pods", "--selector=app=reached", "--field-selector=spec.nodeName=node1", "--output=jsonpath={.items[0].status.podIPs[*].ip}")
	must(t, err)
	living := strings.Fields(out)
	for _, c := range []struct {
		family, table, address, node, dead, living string
		port                                       int // of the client, the first of three
	}{
		{"ipv4", "ip reached", "192.0.2.9", v4.String(), "10.244.1.200", living[0], 41000},
		{"ipv6", "ip6 reached", "2001:db8:9::9", v6.String(), "fd00:10:244:1::200", living[1], 41010},
	} {
		t.Run(c.family, func(t *testing.T) {
			on := func(host string, args ...string) string {
				t.Helper()
				out, err := l.Network.Exec(context.WithoutCancel(t.Context()), host, args...)
				must(t, err)
				return out
			}
			on(lab.Client, "ip", "route", "add", c.address, "via", c.node)
			t.Cleanup(func() { on(lab.Client, "ip", "route", "delete", c.address, "via", c.node) })
			to := func(backend string) {
				t.Helper()
				on("node1", "nft", fmt.Sprintf("table %[1]s; delete table %[1]s; table %[1]s { chain pre { type nat hook prerouting priority -90; %s daddr %s tcp dport 80 dnat to %s; }; }",
					c.table, strings.Fields(c.table)[0], c.address, backend))
			}
			t.Cleanup(func() { on("node1", "nft", "delete table "+c.table) })
			curl := func(port int) error {
				_, err := l.Network.Exec(t.Context(), lab.Client, "curl", "--silent", "--show-error", "--max-time", "8", "--local-port", strconv.Itoa(port), lab.URL(netip.MustParseAddr(c.address), 80))
				return err
			}
			refused := func(port int, why string) {
				t.Helper()
				if err := curl(port); err == nil || !strings.Contains(err.Error(), "Couldn't connect") {
					t.Fatalf("%s: %v, want that it cannot connect", why, err)
				}
			}
			used, fresh, brief := c.port, c.port+1, c.port+2

			to(c.dead)
			refused(used, "the dead backend")
			to(c.living)
			if err := curl(fresh); err != nil {
				t.Fatalf("a port that was not used before: %v", err)
			}
			refused(used, "the port from which the dead backend was asked")
			must(t, l.Machines.ForgetConnections(t.Context(), netip.MustParseAddr(c.dead)))
			if err := curl(used); err != nil {
				t.Fatalf("that port, when the node was told to forget: %v", err)
			}
			must(t, l.Machines.ForgetConnections(t.Context(), netip.MustParseAddr(c.dead))) // nothing is left to forget

			const setting = "net.netfilter.nf_conntrack_tcp_timeout_syn_sent"
			before := strings.TrimSpace(on("node1", "sysctl", "-n", setting))
			on("node1", "sysctl", "-w", setting+"=2")
			t.Cleanup(func() { on("node1", "sysctl", "-w", setting+"="+before) })
			to(c.dead)
			refused(brief, "the dead backend")
			to(c.living)
			eventually(t, 20*time.Second, func() error {
				if out := on("node1", "conntrack", "--dump", "--family", c.family, "--reply-src", c.dead); out != "" {
					return fmt.Errorf("it remembers %s", out)
				}
				return nil
			})
			if err := curl(brief); err != nil {
				t.Fatalf("that port, when the node has forgotten by itself: %v", err)
			}
		})
	}
}
