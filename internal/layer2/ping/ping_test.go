package ping

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/ranges"
)

// A host is a network namespace of this test's own.
type host struct {
	*testing.T
	name string
}

func newHost(t *testing.T, role string) host {
	h := host{t, fmt.Sprintf("bfping-%d-%s", os.Getpid(), role)}
	h.run("ip", "netns", "add", h.name)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", h.name).Run() })
	h.run("ip", "-n", h.name, "link", "set", "lo", "up")
	h.within("sysctl", "-q", "-w", "net.ipv6.conf.default.accept_dad=0", "net.ipv4.icmp_ratelimit=0")
	return h
}

func (h host) run(args ...string) string {
	h.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		h.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (h host) within(args ...string) string {
	h.Helper()
	return h.run(append([]string{"ip", "netns", "exec", h.name}, args...)...)
}

func (h host) ip(commands ...string) {
	h.Helper()
	for _, c := range commands {
		h.run(append([]string{"ip", "-n", h.name}, strings.Fields(c)...)...)
	}
}

// do runs a function on a thread inside the namespace.
func (h host) do(f func() error) error {
	failure := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the thread ends with this goroutine
		fd, err := unix.Open(filepath.Join("/run/netns", h.name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			defer unix.Close(fd)
			err = unix.Setns(fd, unix.CLONE_NEWNET)
		}
		if err == nil {
			err = f()
		}
		failure <- err
	}()
	return <-failure
}

var summary = regexp.MustCompile(`3 packets transmitted, (\d) received`)

// pings returns how many of three echo requests are answered, and all that ping says.
func (h host) pings(address string, options ...string) (answers, said string) {
	h.Helper()
	args := append([]string{"netns", "exec", h.name, "ping", "-n", "-c", "3", "-i", "0.2", "-W", "1"}, options...)
	out, _ := exec.Command("ip", append(args, address)...).CombinedOutput() // it fails without an answer
	found := summary.FindStringSubmatch(string(out))
	if found == nil {
		h.Errorf("ping %s: %s", address, out)
		return "", string(out)
	}
	return found[1], string(out)
}

// clean fails the test unless a ping is answered as that of any host is.
func (h host) clean(address string, options ...string) {
	h.Helper()
	if n, said := h.pings(address, options...); n != "3" || strings.Contains(said, "Redirect") || strings.Contains(said, "nreachable") || strings.Contains(said, "DUP") {
		h.Errorf("ping %s is not clean:\n%s", address, said)
	}
}

func (h host) unanswered(addresses ...string) {
	h.Helper()
	var wg sync.WaitGroup
	for _, a := range addresses {
		wg.Go(func() {
			if n, said := h.pings(a); n != "0" {
				h.Errorf("ping %s is answered:\n%s", a, said)
			}
		})
	}
	wg.Wait()
}

func rangesOf(prefixes ...string) (all []lb.AddressRange) {
	for _, p := range prefixes {
		all = append(all, ranges.Of(netip.MustParsePrefix(p)))
	}
	return all
}

// A client and a node with a Pod. The client's neighbor tables say that the node has
// some addresses, as the answers of a speaker would have it.
func TestTheKernelAnswersEchoRequestsForWhatItsNodeAttracts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root to make network namespaces")
	}
	for _, program := range []string{"ip", "ping", "sysctl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("SKIPPED: needs %s (iproute2, iputils-ping, procps)", program)
		}
	}
	client, node, pod := newHost(t, "client"), newHost(t, "node"), newHost(t, "pod")
	client.ip("link add eth0 type veth peer name eth0 netns " + node.name)
	pod.ip("link add eth0 type veth peer name veth1 netns " + node.name)
	client.ip("link set eth0 up", "addr add 192.0.2.3/24 dev eth0", "addr add 2001:db8::3/64 dev eth0")
	node.ip("link set eth0 up", "addr add 192.0.2.11/24 dev eth0", "addr add 2001:db8::11/64 dev eth0",
		"link set veth1 up", "addr add 10.1.0.1/24 dev veth1", "addr add fd00::1/64 dev veth1")
	pod.ip("link set eth0 up", "addr add 10.1.0.2/24 dev eth0", "addr add fd00::2/64 dev eth0",
		"route add default via 10.1.0.1", "route add default via fd00::1")
	node.within("sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	mac := strings.TrimSpace(node.within("cat", "/sys/class/net/eth0/address"))
	for _, a := range []string{"192.0.2.200", "192.0.2.210", "2001:db8::200", "2001:db8::210"} {
		client.ip("neigh add " + a + " lladdr " + mac + " dev eth0")
	}
	client.ip("route add 198.51.100.0/24 via 192.0.2.11", "route add 2001:db8:51::/64 via 2001:db8::11")

	announced := []string{"192.0.2.200", "2001:db8::200", "198.51.100.7", "2001:db8:51::7"}
	client.unanswered(announced...)
	if err := node.do(func() error { return Install(Rule{[]string{"eth0"}, rangesOf("203.0.113.0/24")}) }); err != nil {
		t.Fatal(err)
	}
	client.unanswered("192.0.2.200") // another pool's
	rule := Rule{[]string{"eth*", "bond0"}, rangesOf("192.0.2.200/29", "192.0.2.204/30", "198.51.100.0/24", "2001:db8::200/124", "2001:db8:51::/64")}
	if err := node.do(func() error { return Install(rule) }); err != nil {
		t.Fatal(err)
	}
	for _, a := range announced {
		client.clean(a)
		client.clean(a, "-s", "4000")
	}
	client.unanswered("192.0.2.210", "2001:db8::210") // in no pool
	// The node's own Pod is not answered by its node: another one may have the address.
	pod.unanswered(announced...)
	// Other traffic is what it was: nothing listens on the address.
	client.clean("192.0.2.11")
	client.clean("2001:db8::11")
	if err := node.do(Remove); err != nil {
		t.Fatal(err)
	}
	if err := node.do(Remove); err != nil {
		t.Errorf("removed twice: %v", err)
	}
	client.unanswered(announced...)
}

func TestARuleWithoutInterfacesOrAddressesIsRefused(t *testing.T) {
	for _, c := range []struct {
		rule Rule
		want string
	}{
		{Rule{Addresses: rangesOf("192.0.2.0/24")}, "no interface"},
		{Rule{Interfaces: []string{"eth0"}}, "no address"},
	} {
		if err := Install(c.rule); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.rule, err)
		}
	}
}
