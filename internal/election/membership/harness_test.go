package membership

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/gossipkey"
	"github.com/belfrylb/belfry/internal/lb"
)

var testKeys = gossipkey.Ring{Send: sha256.Sum256([]byte("gossip key of the tests"))}

// subnets hands out a loopback subnet per cluster, so that tests of one process
// do not meet; the process id keeps processes apart.
var subnets atomic.Uint32

func nextAddr(n uint32, host int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, byte(64 + os.Getpid()%128), byte(n)<<1 | byte(host>>8), byte(host)})
}

// A member is one speaker's membership under test.
type member struct {
	*Membership
	cluster *cluster
	node    string
	addr    netip.Addr
	reg     *prometheus.Registry
	wire    *wire
	watches *watches
	cancel  context.CancelFunc
	done    chan error
}

// A cluster is a set of members on loopback and what the network between them
// does.
type cluster struct {
	t      testing.TB
	subnet uint32
	size   int
	port   uint16
	six    bool

	mu  sync.Mutex
	cut map[[2]netip.Addr]bool // From, to.
	// silent are the nodes whose kernel does not answer on the segment, speaks those
	// whose speaker does.
	silent  map[string]bool
	speaks  map[string]bool
	members map[string]*member
}

func newCluster(t testing.TB, size int) *cluster {
	t.Helper()
	c := &cluster{
		t: t, subnet: subnets.Add(1), size: size, port: 17870,
		cut: map[[2]netip.Addr]bool{}, silent: map[string]bool{}, speaks: map[string]bool{}, members: map[string]*member{},
	}
	t.Cleanup(c.stop)
	return c
}

func (c *cluster) addr(host int) netip.Addr {
	if c.six {
		return netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", host))
	}
	return nextAddr(c.subnet, host)
}

func (c *cluster) node(host int) string { return fmt.Sprintf("node-%02d", host) }

func (c *cluster) peers() []netip.Addr {
	var as []netip.Addr
	for h := 1; h <= c.size; h++ {
		as = append(as, c.addr(h))
	}
	return as
}

// start starts the member of that host, with changes to its configuration.
func (c *cluster) start(host int, change ...func(*Config)) *member {
	c.t.Helper()
	return c.startWatching(host, nil, change...)
}

// startWatching does the same, with sessions that the test speaks for.
func (c *cluster) startWatching(host int, w *watches, change ...func(*Config)) *member {
	c.t.Helper()
	cfg := Config{Node: c.node(host), Bind: c.addr(host), Port: c.port, Keys: testKeys, Size: c.size}
	for _, f := range change {
		f(&cfg)
	}
	m := &member{cluster: c, node: cfg.Node, addr: cfg.Bind, watches: w, reg: prometheus.NewRegistry(), done: make(chan error, 1)}
	var watcher Watcher
	if w != nil {
		watcher = w
	}
	var err error
	if m.Membership, err = New(cfg, testLog(c.t, cfg.Node), m.reg, segment{c}, watcher); err != nil {
		c.t.Fatal(err)
	}
	m.open = func(bind netip.AddrPort, b *border) (memberlist.NodeAwareTransport, error) {
		t, err := open(bind, b)
		m.wire = &wire{NodeAwareTransport: t, cluster: c, self: bind.Addr()}
		return m.wire, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	m.SetPeers(c.peers())
	m.Publish(Local{Interfaces: c.ifaces(host), Detection: lb.DetectFast})
	go func() { m.done <- m.Run(ctx) }()
	c.members[cfg.Node] = m
	return m
}

func (c *cluster) ifaces(host int) []lb.Interface {
	return []lb.Interface{{
		Index: 2, Name: "eth0", MAC: lb.MAC{2, 0, 0, 0, 0, byte(host)}, Up: true, Carrier: true,
		Addresses: []netip.Prefix{netip.PrefixFrom(c.addr(host), 24)},
	}}
}

// startAll starts all members and waits until each sees all alive.
func (c *cluster) startAll() []*member {
	c.t.Helper()
	var ms []*member
	for h := 1; h <= c.size; h++ {
		ms = append(ms, c.start(h))
	}
	for _, m := range ms {
		m.sees("all alive", 10*time.Second, func(list []election.Member) bool {
			return len(list) == c.size && !slices.ContainsFunc(list, func(m election.Member) bool { return m.State != election.Alive })
		})
	}
	return ms
}

func (c *cluster) stop() {
	for _, m := range c.members {
		m.cancel()
	}
	for _, m := range c.members {
		select {
		case <-m.done:
		case <-time.After(10 * time.Second):
			c.t.Errorf("%s: Run does not return", m.node)
		}
	}
}

// doubts returns how many doubts have ended, by the metric that measures them.
func (m *member) doubts() (n uint64) {
	m.cluster.t.Helper()
	families, err := m.reg.Gather()
	if err != nil {
		m.cluster.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "belfry_gossip_doubt_seconds" {
			n = f.GetMetric()[0].GetHistogram().GetSampleCount()
		}
	}
	return n
}

// crash takes the member's sockets away, as the kernel does when it is killed.
func (m *member) crash() {
	_ = m.wire.NodeAwareTransport.Shutdown()
	m.cancel()
	delete(m.cluster.members, m.node)
}

// busy is how many times longer than on a quiet machine a test waits.
const busy = 10

// sees waits until the member's list satisfies a condition, and returns how
// long that took. Within is what it takes on a quiet machine, and plenty.
func (m *member) sees(what string, within time.Duration, cond func([]election.Member) bool) time.Duration {
	m.cluster.t.Helper()
	start := time.Now()
	deadline := time.After(busy * within)
	for {
		list := m.Members()
		if cond(list) {
			return time.Since(start)
		}
		select {
		case <-m.Changed():
		case err := <-m.done:
			m.cluster.t.Fatalf("%s: ended while waiting for %s: %v", m.node, what, err)
		case <-deadline:
			m.cluster.t.Fatalf("%s: no %s within %v; sees %s", m.node, what, within, show(m.Members()))
		}
	}
}

func show(list []election.Member) string {
	var b strings.Builder
	for _, m := range list {
		fmt.Fprintf(&b, "\n  %s %v %s, %d interfaces, claims %v", m.Node, m.State, m.Address, len(m.Interfaces), m.Claims)
	}
	return b.String()
}

func find(list []election.Member, node string) (election.Member, bool) {
	i := slices.IndexFunc(list, func(m election.Member) bool { return m.Node == node })
	if i < 0 {
		return election.Member{}, false
	}
	return list[i], true
}

func without(node string) func([]election.Member) bool {
	return func(list []election.Member) bool { _, there := find(list, node); return !there }
}

func with(node string, state election.State) func([]election.Member) bool {
	return func(list []election.Member) bool { m, there := find(list, node); return there && m.State == state }
}

func claims(node string, a netip.Addr) func([]election.Member) bool {
	return func(list []election.Member) bool { m, there := find(list, node); return there && !m.Claims[a].None() }
}

func notClaims(node string, a netip.Addr) func([]election.Member) bool {
	return func(list []election.Member) bool { m, there := find(list, node); return there && m.Claims[a].None() }
}

// A segment answers for every node that is not silent, as kernels do.
type segment struct{ c *cluster }

func (s segment) Confirm(ctx context.Context, q election.Question) election.Reply {
	s.c.mu.Lock()
	silent, speaks := s.c.silent[q.Suspect.Node], s.c.speaks[q.Suspect.Node]
	s.c.mu.Unlock()
	if speaks {
		return election.Speaks
	}
	if !silent {
		return election.Answers
	}
	select { // Six questions of 10 ms.
	case <-time.After(60 * time.Millisecond):
	case <-ctx.Done():
	}
	return election.Silent
}

// partition separates the groups of hosts, on the segment too.
func (c *cluster) partition(a, b []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, x := range a {
		for _, y := range b {
			c.cut[[2]netip.Addr{c.addr(x), c.addr(y)}] = true
			c.cut[[2]netip.Addr{c.addr(y), c.addr(x)}] = true
			c.silent[c.node(x)], c.silent[c.node(y)] = true, true
		}
	}
}

func (c *cluster) heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.cut)
	clear(c.silent)
}

func (c *cluster) passes(from, to netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.cut[[2]netip.Addr{from, to}]
}

// A wire is a transport through the cluster's network.
type wire struct {
	memberlist.NodeAwareTransport
	cluster *cluster
	self    netip.Addr
	packets atomic.Int64
	bytes   atomic.Int64
}

func (w *wire) WriteTo(b []byte, addr string) (time.Time, error) {
	w.packets.Add(1)
	w.bytes.Add(int64(len(b)))
	if to, err := netip.ParseAddrPort(addr); err == nil && !w.cluster.passes(w.self, to.Addr()) {
		return time.Now(), nil
	}
	return w.NodeAwareTransport.WriteTo(b, addr)
}

func (w *wire) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return w.WriteTo(b, a.Addr)
}

func (w *wire) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	to, err := netip.ParseAddrPort(addr)
	if err == nil && !(w.cluster.passes(w.self, to.Addr()) && w.cluster.passes(to.Addr(), w.self)) {
		time.Sleep(min(timeout, 100*time.Millisecond)) // What a lost SYN costs, shortened.
		return nil, os.ErrDeadlineExceeded
	}
	return w.NodeAwareTransport.DialTimeout(addr, timeout)
}

func (w *wire) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return w.DialTimeout(a.Addr, timeout)
}

func testLog(_ testing.TB, node string) *slog.Logger {
	level := slog.LevelError
	if os.Getenv("BELFRY_TEST_LOG") != "" {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})).With("self", node)
}

// childEnv makes the test binary a member in a process of its own.
const childEnv = "BELFRY_MEMBER"

func TestMain(m *testing.M) {
	if spec := os.Getenv(childEnv); spec != "" {
		os.Exit(child(spec))
	}
	os.Exit(m.Run())
}

// child runs a member until SIGTERM; spec is node, address, port and peers. It
// claims the address that its name stands for.
func child(spec string) int {
	f := strings.Fields(spec)
	var port uint16
	fmt.Sscan(f[2], &port)
	m, err := New(Config{Node: f[0], Bind: netip.MustParseAddr(f[1]), Port: port, Keys: testKeys}, slog.New(slog.DiscardHandler), nil, nil, nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var peers []netip.Addr
	for _, p := range f[3:] {
		peers = append(peers, netip.MustParseAddr(p))
	}
	m.SetPeers(peers)
	m.Publish(Local{
		Interfaces: []lb.Interface{{Index: 2, Name: "eth0", MAC: lb.MAC{2, 0, 0, 0, 0, 9}, Up: true, Carrier: true}},
		Owned:      []netip.Addr{netip.MustParseAddr("198.51.100.99")},
	})
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	fmt.Println("running")
	if err := m.Run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// fork starts a member in a process of its own.
func (c *cluster) fork(host int) *exec.Cmd {
	c.t.Helper()
	spec := []string{c.node(host), c.addr(host).String(), fmt.Sprint(c.port)}
	for _, p := range c.peers() {
		spec = append(spec, p.String())
	}
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childEnv+"="+strings.Join(spec, " "))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if !bufio.NewScanner(out).Scan() {
		c.t.Fatal("the member's process did not start")
	}
	return cmd
}
