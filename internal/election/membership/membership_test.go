package membership

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/lb"
)

// grace is how long a node waits for others.
const grace = time.Second

var (
	vip4 = netip.MustParseAddr("198.51.100.99")
	vip6 = netip.MustParseAddr("2001:db8:100::99")
)

func TestEveryMemberSeesAllOthersWithTheirInterfaces(t *testing.T) {
	c := newCluster(t, 10)
	start := time.Now()
	ms := c.startAll()
	t.Logf("10 members joined within %v", time.Since(start))
	for _, m := range ms {
		list := m.Members()
		if !slices.IsSortedFunc(list, func(a, b election.Member) int { return strings.Compare(a.Node, b.Node) }) {
			t.Errorf("%s: not sorted: %s", m.node, show(list))
		}
		for h := 1; h <= 10; h++ {
			got, _ := find(list, c.node(h))
			if got.Address != c.addr(h) || !reflect.DeepEqual(got.Interfaces, c.ifaces(h)) {
				t.Errorf("%s sees %s as %+v", m.node, c.node(h), got)
			}
		}
	}
}

func TestWhatAMemberSaysIsHeardByAllAtOnce(t *testing.T) {
	c := newCluster(t, 4)
	ms := c.startAll()
	ms[0].Publish(Local{Interfaces: c.ifaces(1), Owned: []netip.Addr{vip6, vip4, vip4}})
	for _, m := range ms {
		took := m.sees("claims", time.Second, func(l []election.Member) bool {
			return claims(ms[0].node, vip4)(l) && claims(ms[0].node, vip6)(l)
		})
		t.Logf("%s heard of the claim after %v", m.node, took)
	}
	ms[0].Publish(Local{Owned: []netip.Addr{vip4}, Leaving: true})
	for _, m := range ms {
		took := m.sees("change", time.Second, func(l []election.Member) bool {
			got, _ := find(l, ms[0].node)
			return got.State == election.Leaving && len(got.Interfaces) == 0 && len(got.Claims) == 1
		})
		t.Logf("%s heard of the cable after %v", m.node, took)
	}
}

func TestThousandsOfClaimsReachEverybody(t *testing.T) {
	c := newCluster(t, 3)
	ms := c.startAll()
	var owned []netip.Addr
	a4, a6 := netip.MustParseAddr("198.18.0.0"), netip.MustParseAddr("2001:db8::")
	for range 2500 {
		owned = append(owned, a4, a6)
		a4, a6 = a4.Next().Next(), a6.Next().Next() // Gaps: nothing to join into ranges.
	}
	for _, n := range []int{5000, 4999, 10} {
		ms[0].Publish(Local{Interfaces: c.ifaces(1), Owned: owned[:n]})
		for _, m := range ms {
			took := m.sees(fmt.Sprintf("%d claims", n), 2*time.Second, func(l []election.Member) bool {
				got, _ := find(l, ms[0].node)
				return len(got.Claims) == n && got.State == election.Alive
			})
			t.Logf("%s heard of %d claims after %v", m.node, n, took)
		}
	}
	ms[0].Publish(Local{Interfaces: c.ifaces(1), Owned: owned})
	ms[1].sees("claims", 2*time.Second, func(l []election.Member) bool { m, _ := find(l, ms[0].node); return len(m.Claims) == 5000 })
	ms[2].crash()
	late := c.start(3)
	late.sees("all claims as soon as it may claim itself", 2*time.Second, func(l []election.Member) bool {
		me, _ := find(l, late.node)
		other, _ := find(l, ms[0].node)
		if me.State == election.Alive && len(other.Claims) != 5000 {
			t.Fatalf("may claim, but knows only %d of 5000 claims", len(other.Claims))
		}
		return me.State == election.Alive
	})
}

func TestACrashedMemberIsGoneSoon(t *testing.T) {
	for _, size := range []int{3, 10} {
		c := newCluster(t, size)
		ms := c.startAll()
		for round := range 3 {
			victim := ms[round]
			victim.crash()
			var took []time.Duration
			start := time.Now()
			for _, m := range c.members {
				m.sees("end of "+victim.node, 3*time.Second, without(victim.node))
				took = append(took, time.Since(start).Round(time.Millisecond))
			}
			t.Logf("%d members, process gone: the others knew after %v", size, took)
			ms[round] = c.start(round + 1)
			back := time.Now()
			for _, m := range c.members {
				m.sees("return of "+victim.node, 3*time.Second, with(victim.node, election.Alive))
			}
			t.Logf("%d members: back after %v", size, time.Since(back).Round(time.Millisecond))
		}
	}
}

func TestAMemberWithoutPowerIsGoneSoon(t *testing.T) {
	for _, size := range []int{3, 10} {
		c := newCluster(t, size)
		c.startAll()
		var rest []int
		for h := 1; h < size; h++ {
			rest = append(rest, h)
		}
		for range 3 {
			c.partition(rest, []int{size})
			c.mu.Lock() // The segment of the others is whole.
			clear(c.silent)
			c.silent[c.node(size)] = true
			c.mu.Unlock()
			start := time.Now()
			var took []time.Duration
			for _, h := range rest {
				c.members[c.node(h)].sees("end of the last", 3*time.Second, without(c.node(size)))
				took = append(took, time.Since(start).Round(time.Millisecond))
			}
			t.Logf("%d members, silent: the others knew after %v", size, took)
			c.heal()
			start = time.Now()
			for _, h := range rest {
				c.members[c.node(h)].sees("return of the last", 3*time.Second, with(c.node(size), election.Alive))
			}
			for h := 1; h <= size; h++ {
				c.members[c.node(size)].sees("return of the others", 3*time.Second, with(c.node(h), election.Alive))
			}
			t.Logf("%d members: whole again after %v", size, time.Since(start).Round(time.Millisecond))
		}
	}
}

func TestAKilledProcessIsGoneSoonAndAStoppedOneIsNot(t *testing.T) {
	c := newCluster(t, 3)
	a, b := c.start(1), c.start(2)
	child := c.fork(3)
	name := c.node(3)
	for _, m := range []*member{a, b} {
		m.sees("all", 10*time.Second, func(l []election.Member) bool {
			return len(l) == 3 && claims(name, vip4)(l) && with(name, election.Alive)(l)
		})
	}
	for _, pause := range []time.Duration{100 * time.Millisecond, 500 * time.Millisecond, time.Second} {
		if err := child.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		resume := time.AfterFunc(pause, func() { _ = child.Process.Signal(syscall.SIGCONT) })
		defer resume.Stop()
		end := time.After(pause + time.Second)
		worst := election.Alive
		for watching := true; watching; {
			l := a.Members()
			m, there := find(l, name)
			if !there || m.Claims[vip4].None() {
				t.Fatalf("stopped for %v: taken for dead: %s", pause, show(l))
			}
			if m.State != election.Alive {
				worst = m.State
			}
			select {
			case <-a.Changed():
			case <-end:
				watching = false
			}
		}
		t.Logf("stopped for %v: at worst %v", pause, worst)
		for _, m := range []*member{a, b} {
			m.sees("all alive again", time.Second, func(l []election.Member) bool {
				return with(name, election.Alive)(l) && with(a.node, election.Alive)(l) && with(b.node, election.Alive)(l)
			})
		}
	}
	start := time.Now()
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, m := range []*member{a, b} {
		m.sees("end of the process", 3*time.Second, without(name))
		t.Logf("killed: %s knew after %v", m.node, time.Since(start).Round(time.Millisecond))
	}
	eventually(t, 5*time.Second, func() (bool, string) {
		gone := 0.0
		for _, end := range []string{"silent", "refused", "slow"} {
			gone += testutil.ToFloat64(a.metrics.suspicions.WithLabelValues(end))
		}
		recovered := testutil.ToFloat64(a.metrics.suspicions.WithLabelValues(endRecovered))
		measured := a.doubts()
		return gone >= 1 && measured == uint64(gone+recovered), fmt.Sprintf("%v given up after a doubt, %v recovered, %d doubts measured", gone, recovered, measured)
	})
	start = time.Now()
	c.fork(3)
	for _, m := range []*member{a, b} {
		m.sees("the process again", 3*time.Second, with(name, election.Alive))
		t.Logf("started again: %s knew after %v (with the start of the process)", m.node, time.Since(start).Round(time.Millisecond))
	}
}

func TestAProcessStoppedForGoodIsGivenUpAtTheSlowBound(t *testing.T) {
	c := newCluster(t, 2)
	a := c.start(1)
	child := c.fork(2)
	a.sees("both", 10*time.Second, with(c.node(2), election.Alive))
	start := time.Now()
	if err := child.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	a.sees("end of it", 5*time.Second, without(c.node(2)))
	took := time.Since(start)
	t.Logf("given up after %v", took.Round(time.Millisecond))
	if took < 1200*time.Millisecond {
		t.Errorf("given up after %v already", took)
	}
	_ = child.Process.Signal(syscall.SIGCONT)
	resumed := time.Now()
	a.sees("it again", 3*time.Second, with(c.node(2), election.Alive))
	t.Logf("back %v after it resumed", time.Since(resumed).Round(time.Millisecond))
}

func TestALeaverIsListedAsLeavingUntilItIsGone(t *testing.T) {
	c := newCluster(t, 3)
	ms := c.startAll()
	leaver := ms[1]
	leaver.Publish(Local{Interfaces: c.ifaces(2), Owned: []netip.Addr{vip4}, Leaving: true})
	for _, m := range ms {
		m.sees("leaving", time.Second, with(leaver.node, election.Leaving))
	}
	if got, _ := find(ms[0].Members(), leaver.node); got.Claims[vip4].None() {
		t.Errorf("a leaver's claim is not listed: %+v", got)
	}
	leaver.cancel()
	start := time.Now()
	for _, m := range []*member{ms[0], ms[2]} {
		m.sees("its end", time.Second, without(leaver.node))
		t.Logf("%s knew %v after the order to leave", m.node, time.Since(start).Round(time.Millisecond))
	}
	if err := <-leaver.done; err != nil {
		t.Errorf("Run returned %v", err)
	}
	delete(c.members, leaver.node)
	if n := testutil.ToFloat64(ms[0].metrics.suspicions.WithLabelValues("silent")); n != 0 {
		t.Errorf("%v suspicions although it took its leave", n)
	}
}

// A restart with the same name and address must work at once, whether or not
// the others have noticed the end of the earlier life.
func TestARestartedMemberIsBackAtOnceWithoutItsOldClaims(t *testing.T) {
	c := newCluster(t, 3)
	ms := c.startAll()
	for round := range 5 {
		ms[2].Publish(Local{Interfaces: c.ifaces(3), Owned: []netip.Addr{vip4}})
		ms[0].sees("the claim", time.Second, claims(ms[2].node, vip4))
		ms[2].crash()
		start := time.Now()
		ms[2] = c.start(3)
		for _, m := range ms {
			m.sees("the new life", 2*time.Second, func(l []election.Member) bool {
				return with(ms[2].node, election.Alive)(l) && notClaims(ms[2].node, vip4)(l)
			})
		}
		t.Logf("restart %d: back for all after %v", round, time.Since(start).Round(time.Millisecond))
	}
}

// A node's clock may run back over a restart.
func TestARestartedMemberOutdoesTheMemoryOfItsEarlierLife(t *testing.T) {
	c := newCluster(t, 2)
	ms := c.startAll()
	future := &election.Record{Node: ms[1].node, Address: ms[1].addr, Boot: uint64(time.Now().Add(time.Hour).UnixNano()), Seq: 9, Whole: true, Claims: election.Claims{vip6: {Quorum: election.Majority, Epoch: 3}}}
	ms[0].inbox.post(func(l *loop) { l.receive(encode(future, election.Relayed)) })
	ms[0].sees("the false memory", time.Second, claims(ms[1].node, vip6))
	ms[1].crash()
	ms[1] = c.start(2)
	ms[0].sees("the truth", 2*time.Second, func(l []election.Member) bool {
		return with(ms[1].node, election.Alive)(l) && notClaims(ms[1].node, vip6)(l)
	})
}

func TestAPartitionHealsAtTheFirstPacket(t *testing.T) {
	c := newCluster(t, 5)
	ms := c.startAll()
	ms[0].Publish(Local{Interfaces: c.ifaces(1), Owned: []netip.Addr{vip4}})
	ms[4].sees("the claim", time.Second, claims(ms[0].node, vip4))
	for round := range 3 {
		c.partition([]int{1, 2}, []int{3, 4, 5})
		for i, m := range ms {
			m.sees("one side only", 5*time.Second, func(l []election.Member) bool { return len(l) == map[bool]int{true: 2, false: 3}[i < 2] })
		}
		// The majority takes over what the minority owned.
		heir := ms[2+round]
		heir.Publish(Local{Interfaces: c.ifaces(3 + round), Owned: []netip.Addr{vip4}})
		heir.sees("own claim, of a majority that it is sure of", 2*time.Second, func(l []election.Member) bool {
			me, _ := find(l, heir.node)
			return me.Claims[vip4].Quorum == election.Majority
		})
		c.heal()
		start := time.Now()
		for _, m := range ms {
			m.sees("both claims", 2*time.Second, func(l []election.Member) bool {
				return len(l) == 5 && claims(ms[0].node, vip4)(l) && claims(heir.node, vip4)(l)
			})
		}
		t.Logf("healed for all after %v", time.Since(start).Round(time.Millisecond))
		for _, m := range ms {
			old, _ := find(m.Members(), ms[0].node)
			now, _ := find(m.Members(), heir.node)
			if !now.Claims[vip4].Beats(old.Claims[vip4], vip4, heir.node, ms[0].node) {
				t.Errorf("%s: the majority's claim %v does not beat %v", m.node, now.Claims[vip4], old.Claims[vip4])
			}
		}
		heir.Publish(Local{Interfaces: c.ifaces(3 + round)})
		for _, m := range ms {
			m.sees("one claim", time.Second, notClaims(heir.node, vip4))
		}
	}
}

func TestANodeAloneStopsWaitingAfterItsGrace(t *testing.T) {
	c := newCluster(t, 3)
	m := c.start(1)
	m.Publish(Local{Interfaces: c.ifaces(1), Owned: []netip.Addr{vip4}})
	took := m.sees("itself alive", 3*time.Second, with(m.node, election.Alive))
	if took < grace/2 {
		t.Errorf("it believes to be alone after %v already", took)
	}
	if me, _ := find(m.Members(), m.node); me.Claims[vip4].Quorum != election.Blind {
		t.Errorf("claims made alone: %v", me.Claims)
	}
	late := c.start(2)
	late.sees("the claim, before it may claim itself", 2*time.Second, func(l []election.Member) bool {
		me, _ := find(l, late.node)
		if me.State == election.Alive && !claims(m.node, vip4)(l) {
			t.Fatalf("may claim without knowing who owns: %s", show(l))
		}
		return me.State == election.Alive
	})
}

func TestASingleNodeDoesNotWait(t *testing.T) {
	c := newCluster(t, 1)
	m := c.start(1)
	if took := m.sees("itself alive", 3*time.Second, with(m.node, election.Alive)); took > grace/2 {
		t.Errorf("it waited %v for nobody", took)
	}
}

func TestBeforeItRunsItIsJoining(t *testing.T) {
	m, err := New(Config{Node: "n", Bind: netip.MustParseAddr("127.0.0.1"), Keys: testKeys}, testLog(t, "n"), nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Members(); len(got) != 1 || got[0].State != election.Joining {
		t.Errorf("before Run: %s", show(got))
	}
}

func TestStrangersAreDroppedAndCounted(t *testing.T) {
	c := newCluster(t, 2)
	m := c.start(1)
	stranger := c.start(2, func(cfg *Config) { cfg.Keys.Send[0]++ })
	foreign := func() float64 { return testutil.ToFloat64(m.metrics.dropped.WithLabelValues(dropForeign)) }
	eventually(t, 5*time.Second, func() (bool, string) {
		return foreign() >= 3, fmt.Sprintf("%v foreign packets counted", foreign())
	})
	m.sees("itself alive", 3*time.Second, with(m.node, election.Alive))
	for _, x := range []*member{m, stranger} {
		if l := x.Members(); len(l) != 1 {
			t.Errorf("%s sees a stranger: %s", x.node, show(l))
		}
	}
	stranger.crash()

	// Plain text, in a packet and in a stream, and a stream that is too long.
	before := foreign()
	udp, err := net.Dial("udp", hostPort(m.addr, c.port))
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	for _, p := range []string{"x", "\x08hello, this is no gossip of yours, not at all"} {
		if _, err := udp.Write([]byte(p)); err != nil {
			t.Fatal(err)
		}
	}
	node := net.Dialer{LocalAddr: &net.TCPAddr{IP: stranger.addr.AsSlice()}}
	for _, p := range []string{"\x06hello", "\x0a\xff\xff\xff\xff", "\x0a\x00\x00\x00\x40" + strings.Repeat("x", 64)} {
		tcp, err := node.Dial("tcp", hostPort(m.addr, c.port))
		if err != nil {
			t.Fatal(err)
		}
		defer tcp.Close()
		if _, err := tcp.Write([]byte(p)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 5*time.Second, func() (bool, string) {
		return foreign() >= before+5, fmt.Sprintf("%v more of 5 foreign ones counted", foreign()-before)
	})
}

func TestAPeersMalformedStateIsDroppedAndCounted(t *testing.T) {
	c := newCluster(t, 2)
	ms := c.startAll()
	malformed := func() float64 { return testutil.ToFloat64(ms[0].metrics.dropped.WithLabelValues(dropMalformed)) }
	nonsense := []byte("no record")
	for what, send := range map[string]func(*loop){
		"in a packet": func(l *loop) {
			l.wire[l.own] = nonsense
			l.tell(election.Tell{To: ms[0].addr, Kind: election.Direct})
			l.wire[l.own] = encode(l.own, election.Relayed)
		},
		"in its state": func(l *loop) {
			l.m.state.Store(&[][]byte{nonsense})
			l.exchange(ms[0].addr, l.slow, 1)
		},
	} {
		before := malformed()
		eventually(t, 5*time.Second, func() (bool, string) {
			ms[1].inbox.post(send)
			return malformed() > before, "nothing malformed counted that came " + what
		})
	}
	if l := ms[0].Members(); len(l) != 2 {
		t.Errorf("nonsense removed a member: %s", show(l))
	}
}

func TestAMemberThatMovesToAnotherAddressIsFoundThereAndKeepsItsClaims(t *testing.T) {
	c := newCluster(t, 3)
	ms := c.startAll()
	ms[0].Publish(Local{Interfaces: c.ifaces(1), Owned: []netip.Addr{vip4, vip6}})
	for _, m := range ms {
		m.sees("the claims", 3*time.Second, claims(c.node(1), vip6))
	}
	c.mu.Lock()
	c.speaks[c.node(1)] = true
	c.silent[c.node(1)] = true // its kernel does not have the former address
	c.mu.Unlock()
	moved := c.addr(4)
	for _, m := range ms {
		m.SetPeers([]netip.Addr{moved, c.addr(2), c.addr(3)})
	}
	ms[0].Move(moved)
	for _, m := range ms {
		took := m.sees("it at its other address", 10*time.Second, func(l []election.Member) bool {
			is, there := find(l, c.node(1))
			return there && is.Address == moved && is.State == election.Alive && !is.Claims[vip4].None()
		})
		t.Logf("%s found it after %v", m.node, took)
		for _, end := range []election.Cause{election.GoneSilent, election.GoneRefused, election.GoneSlow} {
			if n := testutil.ToFloat64(m.metrics.suspicions.WithLabelValues(end.String())); n > 0 && m != ms[0] {
				t.Errorf("%s gave it up: %v", m.node, end)
			}
		}
	}
	for _, m := range ms[1:] {
		ms[0].sees("the others", 10*time.Second, with(m.node, election.Alive))
	}
	eventually(t, 2*lingerTime, func() (bool, string) {
		conn, err := net.DialTimeout("tcp", hostPort(c.addr(1), c.port), time.Second)
		if err == nil {
			_ = conn.Close()
		}
		return err != nil, "the port at the former address still accepts"
	})
}

// The API server may tell of an address before the node has it. Whatever happens until
// then has nobody to be told to.
func TestAMemberMovesOnceTheNodeHasTheAddress(t *testing.T) {
	c := newCluster(t, 2)
	ms := []*member{c.startWatching(1, newWatches()), c.start(2)}
	ms[0].sees("the other", 10*time.Second, with(c.node(2), election.Alive))
	ms[1].sees("the other", 10*time.Second, with(c.node(1), election.Alive))
	moved := c.addr(4)
	taken, err := net.Listen("tcp", hostPort(moved, c.port))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range ms {
		m.SetPeers([]netip.Addr{moved, c.addr(2)})
	}
	ms[0].Move(moved)
	ms[1].sees("that it is gone", 10*time.Second, without(c.node(1)))
	for _, d := range []lb.Detection{lb.DetectFast, lb.DetectStandard} {
		ms[0].Publish(Local{Interfaces: c.ifaces(1), Detection: d})
	}
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	ms[1].sees("it at its other address", 10*time.Second, func(l []election.Member) bool {
		is, there := find(l, c.node(1))
		return there && is.Address == moved && is.State == election.Alive
	})
}

func TestNothingIsLeftBehindWhenRunReturns(t *testing.T) {
	before := runtime.NumGoroutine()
	c := newCluster(t, 4)
	ms := c.startAll()
	ms[0].crash()
	ms[1].sees("the loss", 3*time.Second, without(ms[0].node))
	c.stop()
	clear(c.members)
	eventually(t, 5*time.Second, func() (bool, string) {
		buf := make([]byte, 1<<20)
		return runtime.NumGoroutine() <= before, fmt.Sprintf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
	})
	if _, err := net.DialTimeout("tcp", hostPort(ms[2].addr, c.port), time.Second); err == nil {
		t.Error("the port still accepts")
	}
}

func TestAnAddressInUseIsAnError(t *testing.T) {
	c := newCluster(t, 2)
	m := c.start(1)
	m.sees("itself alive", 3*time.Second, with(m.node, election.Alive))
	again, err := New(Config{Node: "other", Bind: m.addr, Port: c.port, Keys: testKeys}, testLog(t, "other"), nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("Run returned %v", err)
	}
}

func TestAConfigIsRefusedWithEverythingThatIsWrong(t *testing.T) {
	_, err := New(Config{Bind: netip.MustParseAddr("::")}, testLog(t, ""), nil, nil, nil)
	if err == nil || !strings.Contains(err.Error(), "node name") || !strings.Contains(err.Error(), "gossip address") {
		t.Errorf("New returned %v", err)
	}
}

// There is but one IPv6 loopback address, so this runs in a network namespace
// of its own that has more.
func TestIPv6(t *testing.T) {
	if os.Getenv(childEnv+"_NETNS") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestIPv6$", "-test.v")
		cmd.Env = append(os.Environ(), childEnv+"_NETNS=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
		out, err := cmd.CombinedOutput()
		if errors.Is(err, syscall.EPERM) {
			t.Skip("SKIPPED: no permission to make a network namespace, so gossip over IPv6 is untested here")
		}
		if strings.Contains(string(out), "SKIPPED") {
			t.Skip(string(out))
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"addr", "add", "2001:db8::1/128", "dev", "lo", "nodad"},
		{"addr", "add", "2001:db8::2/128", "dev", "lo", "nodad"},
		{"addr", "add", "2001:db8::3/128", "dev", "lo", "nodad"},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Skipf("SKIPPED: ip %v: %v: %s", args, err, out)
		}
	}
	c := newCluster(t, 3)
	c.six = true
	ms := c.startAll()
	ms[0].Publish(Local{Interfaces: c.ifaces(1), Owned: []netip.Addr{vip6, vip4}})
	for _, m := range ms {
		m.sees("the claim", time.Second, claims(ms[0].node, vip6))
	}
	ms[0].crash()
	for _, m := range ms[1:] {
		m.sees("the crash", 3*time.Second, without(ms[0].node))
	}
	c.partition([]int{2}, []int{3})
	ms[1].sees("the partition", 3*time.Second, without(ms[2].node))
	ms[2].sees("the partition", 3*time.Second, without(ms[1].node))
	c.heal()
	ms[1].sees("its end", 3*time.Second, with(ms[2].node, election.Alive))
	ms[2].sees("its end", 3*time.Second, with(ms[1].node, election.Alive))
}

// In a cluster of two nobody has a majority without the other, so the claim of
// the one that took over is a lesser one. Yet the other must not take back what
// was taken over while it was stopped.
func TestAProcessThatWasStoppedForLongDoesNotTakeBackWhatItOwned(t *testing.T) {
	c := newCluster(t, 2)
	a := c.start(1)
	child := c.fork(2)
	name := c.node(2)
	a.sees("the owner", 10*time.Second, func(l []election.Member) bool {
		m, _ := find(l, name)
		return m.State == election.Alive && m.Claims[vip4].Quorum == election.Majority
	})
	if err := child.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	a.sees("its end", 5*time.Second, without(name))
	a.Publish(Local{Interfaces: c.ifaces(1), Owned: []netip.Addr{vip4}})
	a.sees("own claim", time.Second, claims(a.node, vip4))
	if err := child.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	a.sees("the other's doubt", 3*time.Second, func(l []election.Member) bool {
		m, _ := find(l, name)
		return m.State == election.Alive && m.Claims[vip4].Quorum == election.Blind
	})
	mine, _ := find(a.Members(), a.node)
	theirs, _ := find(a.Members(), name)
	if !mine.Claims[vip4].Beats(theirs.Claims[vip4], vip4, a.node, name) {
		t.Errorf("%v does not beat %v", mine.Claims[vip4], theirs.Claims[vip4])
	}
}

func TestEveryPaceIsConsistentAndFast(t *testing.T) {
	for size := range 400 {
		p := paceFor(size)
		if err := p.Validate(); err != nil {
			t.Errorf("%d members: %v", size, err)
		}
		if p.lostAfter() > 650*time.Millisecond || size <= 30 && p.lostAfter() > 400*time.Millisecond {
			t.Errorf("%d members: a silent one is lost after %v", size, p.lostAfter())
		}
		if p.view().Slow < 800*time.Millisecond {
			t.Errorf("%d members: a stalled member is given up %v after it is lost", size, p.view().Slow)
		}
	}
	for name, spoil := range map[string]func(*pace){
		"answer later than the probe": func(p *pace) { p.ackIn = p.probe },
		"slow gossip":                 func(p *pace) { p.gossip = time.Second },
		"no suspicion":                func(p *pace) { p.suspicion = 0 },
		"fast slow bound":             func(p *pace) { p.slow = 100 * time.Millisecond },
	} {
		p := paceFor(3)
		spoil(&p)
		if p.Validate() == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func eventually(t *testing.T, within time.Duration, cond func() (bool, string)) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		ok, seen := cond()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", within, seen)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
