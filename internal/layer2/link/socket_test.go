package link

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/bpf"

	"github.com/belfrylb/belfry/internal/lb"
)

var waits = map[string]wait{"by the runtime": byRuntime, "by a thread": byThread}

// everything is a filter that lets everything in.
var everything = []bpf.Instruction{bpf.RetConstant{Val: accept}}

// open opens a socket on an interface of the host and returns what its reader
// hands on and, in the end, what receive returns.
func (h host) open(name string, w wait, etherType int) (*socket, <-chan string, <-chan error) {
	h.t.Helper()
	index := h.index(name)
	var s *socket
	h.do(func() (err error) {
		s, err = openSocket(index, etherType, w, everything)
		return err
	})
	frames, ended := make(chan string, 1024), make(chan error, 1)
	go func() {
		ended <- s.receive(func(frame []byte) {
			select {
			case frames <- string(frame):
			default:
			}
		})
	}()
	return s, frames, ended
}

// await waits for a reader to end.
func await(t *testing.T, what string, ended <-chan error) {
	t.Helper()
	select {
	case err := <-ended:
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("%s: the reader has not ended within 30 s", what)
	}
}

// heard asks from the other end of the cable until a reader hears it.
func heard(t *testing.T, what string, wire *socket, question []byte, frames <-chan string) {
	t.Helper()
	eventually(t, what, func() (bool, string) {
		_ = wire.send(question) // refused while the interface is down
		select {
		case f := <-frames:
			return f == string(question), fmt.Sprintf("% x", f)
		case <-time.After(10 * time.Millisecond):
			return false, "nothing"
		}
	})
}

func TestAReaderEndsWhenItsSocketIsClosed(t *testing.T) {
	n := newLAN(t)
	wire, _ := n.peer.tap("eth0")
	them := n.peer.mac("eth0")
	for name, w := range waits {
		for etherType, question := range map[int][]byte{
			etherARP:  requestARP(broadcast, them, peer4, vip4),
			etherIPv6: solicitation(lb.MAC{}, them, peer6, vip6),
		} {
			t.Run(fmt.Sprintf("%s/%#x", name, etherType), func(t *testing.T) {
				s, frames, ended := n.node.open("eth0", w, etherType)
				heard(t, "a question", wire, question, frames)
				n.node.ip("link", "set", "eth0", "down")
				n.node.ip("link", "set", "eth0", "up")
				heard(t, "a question after down and up", wire, question, frames)
				s.close()
				await(t, "closed", ended)
				if err := s.send(question); err == nil {
					t.Error("a closed socket sends")
				}
				s.close() // again: changes nothing
			})
		}
	}
}

func TestAReaderEndsWhenItsInterfaceIsGoneAndItsSocketIsClosed(t *testing.T) {
	n := newLAN(t)
	for name, w := range waits {
		t.Run(name, func(t *testing.T) {
			cable(n.node, "eth1", n.peer, "eth1")
			s, _, ended := n.node.open("eth1", w, etherARP)
			n.node.ip("link", "del", "eth1")
			s.close()
			await(t, "the interface is gone", ended)
		})
	}
}

// entries counts what is in a directory of the process.
func entries(t *testing.T, dir string) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/" + dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func TestAThousandSocketsLeaveNeitherDescriptorsNorThreads(t *testing.T) {
	n := newLAN(t)
	for name, w := range waits {
		t.Run(name, func(t *testing.T) {
			index := n.node.index("eth0")
			descriptors, threads := entries(t, "fd"), entries(t, "task")
			n.node.do(func() error {
				for range 50 {
					var readers sync.WaitGroup
					errs := make(chan error, 20)
					for range cap(errs) { // closing takes the kernel milliseconds, of many as of one
						s, err := openSocket(index, etherARP, w, everything)
						if err != nil {
							return err
						}
						readers.Go(func() { errs <- s.receive(func([]byte) {}) })
						readers.Go(s.close)
					}
					readers.Wait()
					close(errs)
					for err := range errs {
						if err != nil {
							return err
						}
					}
				}
				return nil
			})
			// The runtime keeps the threads of the busiest moment.
			eventually(t, "neither grows with the number of sockets", func() (bool, string) {
				d, th := entries(t, "fd"), entries(t, "task")
				return d <= descriptors+8 && th <= threads+64, fmt.Sprintf("%d and then %d descriptors, %d and %d threads", descriptors, d, threads, th)
			})
		})
	}
}

// However many interfaces a node has, its threads are bounded; the sockets that
// have none answer as well.
func TestOnlySoManySocketsHaveAThreadOfTheirOwn(t *testing.T) {
	need(t, "arping", "ndisc6")
	n := newLAN(t)
	const interfaces = threads/2 + 2 // two sockets each
	var mu sync.Mutex
	opened := map[wait]int{}
	l, _ := n.node.runLink(Options{}, func(l *Link) {
		l.openSocket = func(ifindex, etherType int, w wait, filter []bpf.Instruction) (*socket, error) {
			s, err := openSocket(ifindex, etherType, w, filter)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				opened[w]++
			}
			return s, err
		}
	})
	expect := func(what string, threads, others int) {
		t.Helper()
		eventually(t, what, func() (bool, string) {
			mu.Lock()
			defer mu.Unlock()
			return opened[byThread] == threads && opened[byRuntime] == others, fmt.Sprintf("%d sockets by thread and %d by the runtime, want %d and %d", opened[byThread], opened[byRuntime], threads, others)
		})
	}
	var batch strings.Builder
	for i := 1; i < interfaces; i++ {
		fmt.Fprintf(&batch, "link add eth%d type veth peer name eth%d netns %s\nlink set eth%d up\n", i, i, n.peer.name, i)
	}
	n.node.batch(batch.String())
	last := fmt.Sprintf("eth%d", interfaces-1)
	n.peer.ip("link", "set", last, "up")
	n.peer.ip("addr", "add", "192.0.2.3/24", "dev", last)
	var all []int
	for i := range interfaces {
		all = append(all, n.node.index(fmt.Sprintf("eth%d", i)))
	}
	slices.Sort(all)
	eventually(t, "all interfaces are listed", func() (bool, string) {
		return len(l.Interfaces()) == interfaces+1, fmt.Sprint(len(l.Interfaces()))
	})
	l.Set(claims(all...))
	expect("all claimed", threads, 4)
	n.expectSeen("one that has no thread", last, n.node.mac(last))
	l.Set(claims(all[interfaces-1]))
	eventually(t, "all others are closed", func() (bool, string) {
		got := n.node.packetSockets()
		return got == 2, fmt.Sprintf("%d packet sockets, want 2", got)
	})
	l.Set(claims(all[0], all[interfaces-1]))
	expect("threads are free again", threads+2, 4)
	n.expectSeen("one that has a thread", "eth0", n.node.mac("eth0"))
}
