package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
)

func TestABrokenSubscriptionIsRenewedAndNothingIsMissed(t *testing.T) {
	n := newLAN(t)
	var mu sync.Mutex
	var subs []*subscription
	refuse := false
	l, _ := n.node.runLink(Options{}, func(l *Link) {
		l.subscribeTo = func() (*subscription, error) {
			mu.Lock()
			defer mu.Unlock()
			if refuse {
				refuse = false
				return nil, errors.New("not now")
			}
			s, err := subscribe()
			subs = append(subs, s)
			return s, err
		}
	})
	mu.Lock()
	refuse = true
	subs[0].socket.Close()
	mu.Unlock()
	n.node.ip("addr", "add", "198.51.100.1/24", "dev", "eth0") // perhaps unheard
	eventually(t, "a change while there was no subscription is known", func() (bool, string) {
		i := named(l, "eth0")
		return len(i.Addresses) == 4, fmt.Sprint(i.Addresses)
	})
	n.node.ip("addr", "add", "198.51.101.1/24", "dev", "eth0")
	eventually(t, "a change after it is known", func() (bool, string) {
		i := named(l, "eth0")
		return len(i.Addresses) == 5, fmt.Sprint(i.Addresses)
	})
	mu.Lock()
	defer mu.Unlock()
	if len(subs) != 2 || refuse {
		t.Errorf("%d subscriptions, want 2; the refusal is still due: %v", len(subs), refuse)
	}
}

// An interface that was down and is up again before it could be listed has left no
// trace but the kernel's report of it.
func TestAnInterfaceThatWasDownUnseenIsAnnouncedOnAgain(t *testing.T) {
	n := newLAN(t)
	index := n.node.index("eth0")
	var sub *subscription
	n.node.do(func() (err error) {
		sub, err = subscribe()
		return err
	})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { sub.run(ctx) })
	n.node.ip("link", "set", "eth0", "down")
	n.node.ip("link", "set", "eth0", "up")
	for reported, timeout := false, time.After(10*time.Second); !reported; {
		select {
		case down := <-sub.changes:
			reported = slices.Contains(down, index)
		case <-timeout:
			t.Fatal("that it was down is not reported")
		}
	}
	cancel()
	sub.socket.Close()
	for range sub.changes {
	}
	running.Wait()

	reports := make(chan chan []int, 1)
	l, reg := n.node.runLink(Options{}, func(l *Link) {
		l.subscribeTo = func() (*subscription, error) {
			s, err := subscribe()
			if err == nil {
				reports <- s.changes
			}
			return s, err
		}
	})
	l.Set(claims(index))
	all := func(want float64) {
		t.Helper()
		eventually(t, "announcements", func() (bool, string) {
			sent := read(t, reg, "gratuitous_total")
			return sent >= want, fmt.Sprintf("%v, want %v", sent, want)
		})
	}
	all(1)
	<-reports <- []int{index}
	all(10) // one acquisition has nine
}

func TestSocketsThatBreakOrCannotBeOpenedAreOpenedAgain(t *testing.T) {
	need(t, "arping", "ndisc6")
	n := newLAN(t)
	var mu sync.Mutex
	var sockets []*socket
	refusals := 1
	l, reg := n.node.runLink(Options{}, func(l *Link) {
		l.openSocket = func(ifindex, etherType int, w wait, filter []bpf.Instruction) (*socket, error) {
			mu.Lock()
			defer mu.Unlock()
			if refusals > 0 {
				refusals--
				return nil, unix.ENOBUFS
			}
			s, err := openSocket(ifindex, etherType, w, filter)
			sockets = append(sockets, s)
			return s, err
		}
	})
	l.Set(claims(n.node.index("eth0")))
	n.expectSeen("after one was refused", "eth0", n.node.mac("eth0"))
	sent := read(t, reg, "gratuitous_total", "form", "arp-request")
	mu.Lock()
	for _, s := range sockets {
		s.release() // and not s.close: as if by itself
	}
	mu.Unlock()
	n.expectSeen("after they broke", "eth0", n.node.mac("eth0"))
	eventually(t, "announced afresh", func() (bool, string) {
		now := read(t, reg, "gratuitous_total", "form", "arp-request")
		return now > sent, fmt.Sprintf("%v announcements, %v before", now, sent)
	})
	mu.Lock()
	defer mu.Unlock()
	if len(sockets) != 4 {
		t.Errorf("%d sockets were opened, want 4", len(sockets))
	}
}

func TestGroupsAreJoinedAgainAfterIPv6WasGone(t *testing.T) {
	n := newLAN(t)
	l, _ := n.node.runLink(Options{})
	l.Set(claims(n.node.index("eth0")))
	joined := func() (bool, string) {
		out := n.node.ip("-6", "maddr", "show", "dev", "eth0")
		return strings.Contains(out, "ff02::1:ff00:10\n"), out
	}
	eventually(t, "the group is joined", joined)
	n.node.ip("link", "set", "eth0", "mtu", "1000") // too small for IPv6
	eventually(t, "IPv6 is gone", func() (bool, string) {
		ok, out := joined()
		return !ok && len(named(l, "eth0").Addresses) == 1, out
	})
	n.node.ip("link", "set", "eth0", "mtu", "1500")
	eventually(t, "the group is joined again", joined)
}

func TestNothingIsLeftWhenRunHasEnded(t *testing.T) {
	n := newLAN(t)
	l, err := New(testLog(t), nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	l.Watch([]lb.AddressRange{{First: vip4, Last: vip4}})
	l.Set(claims(n.node.index("eth0")))
	for range 2 { // it may run again
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() {
			if err := n.node.enter(); err != nil {
				ended <- err
				return
			}
			ended <- l.Run(ctx)
		}()
		eventually(t, "two sockets are open", func() (bool, string) {
			got := n.node.packetSockets()
			return got == 2, fmt.Sprint(got)
		})
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		eventually(t, "sockets and groups are gone", func() (bool, string) { // the kernel takes its time over them
			sockets, groups := n.node.packetSockets(), n.node.ip("-6", "maddr", "show", "dev", "eth0")
			return sockets == 0 && !strings.Contains(groups, "ff02::1:ff00:10\n"), fmt.Sprintf("%d packet sockets, groups %s", sockets, groups)
		})
	}
}

func TestOptionsThatMakeNoSenseAreRefused(t *testing.T) {
	for _, o := range []Options{{Rate: -1}, {RefreshInterval: -1}} {
		if _, err := New(testLog(t), nil, o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}

// Where IPv6 is disabled IPv4 goes on, claims are settled as quickly, and IPv6 is back
// as soon as it is enabled, without waiting for a retry.
func TestIPv6ThatIsDisabledHarmsNothingElse(t *testing.T) {
	need(t, "arping", "ndisc6")
	n := newLAN(t)
	n.node.set("net/ipv6/conf/eth0/disable_ipv6", "1")
	l, _ := n.node.runLink(Options{}, func(l *Link) { l.hearing = time.Hour })
	index := n.node.index("eth0")
	l.Set(claims(index)) // returns, though the group cannot be joined
	answer := func(what string) {
		t.Helper()
		eventually(t, what, func() (bool, string) {
			out, err := n.peer.try("arping", "-c1", "-w1", "-I", "eth0", vip4.String())
			return err == nil, out
		})
	}
	answer("IPv4 is answered")
	l.Set(nil)
	l.Set(claims(index))
	answer("IPv4 is answered again")
	n.node.set("net/ipv6/conf/eth0/disable_ipv6", "0")
	n.expectSeen("both are answered", "eth0", n.node.mac("eth0"))
	eventually(t, "the group is joined", func() (bool, string) {
		out := n.node.ip("-6", "maddr", "show", "dev", "eth0")
		return strings.Contains(out, "ff02::1:ff00:10\n"), out
	})
	n.node.set("net/ipv6/conf/eth0/disable_ipv6", "1")
	answer("IPv4 goes on")
}

// Without descriptors to be had nothing that is answered stops, a question cannot be
// asked (which says nothing about who is asked), interfaces are listed once there are
// some again, and what could not be opened is.
func TestDescriptorsThatRunOutHarmNothingElse(t *testing.T) {
	need(t, "arping", "ndisc6")
	n := newLAN(t)
	cable(n.node, "eth1", n.peer, "eth1")
	n.peer.ip("addr", "add", "192.0.2.3/24", "dev", "eth1")
	l, _ := n.node.runLink(Options{})
	index, second := n.node.index("eth0"), n.node.index("eth1")
	l.Set(claims(index))
	n.expectSeen("before", "eth0", n.node.mac("eth0"))

	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	restore := func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(restore)
	wire, frames := n.peer.tap("eth0") // while it can be opened
	none := limit
	none.Cur = 3 // these are in use; poll(2) wants two
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Probe(t.Context(), index, peer4, lb.MAC{2}); !errors.Is(err, unix.EMFILE) {
		restore()
		t.Fatalf("a question without a descriptor: %v, want %v", err, unix.EMFILE)
	}
	l.Set(append(claims(index), layer2.Claim{Address: other4, Interfaces: []int{index, second}}))
	answered := map[netip.Addr]bool{}
	for late := time.After(10 * time.Second); len(answered) < 2; {
		for _, a := range []netip.Addr{vip4, other4} {
			if err := wire.send(requestARP(broadcast, lb.MAC{2, 1}, peer4, a)); err != nil {
				t.Error(err)
			}
		}
		select {
		case f := <-frames:
			if p, m := parseARP(f); m == wellFormed && !p.request {
				answered[p.sender] = true
			}
		case <-late:
			restore()
			t.Fatalf("answered: %v", answered)
		}
	}
	restore()
	eventually(t, "the second interface answers, too", func() (bool, string) {
		out, err := n.peer.try("arping", "-c1", "-w1", "-I", "eth1", other4.String())
		return err == nil, out
	})
}
