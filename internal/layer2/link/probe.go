package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belfrylb/belfry/internal/lb"
)

// The confirmation that a suspected node is gone asks it this often, this far
// apart, and listens as long after the last time. The kernel of a node that is
// there answers in microseconds; three losses in a row on a segment that loses
// one frame in twenty happen once in eight thousand times.
const (
	confirmations    = 3
	confirmationWait = 20 * time.Millisecond
)

// Probe asks a station on the segment of an interface for an address of its
// own, and returns whether it answered: a node whose kernel answers is there,
// even if its speaker is not. The question is unicast to the station's hardware
// address; the answer must come from it. With a zero hardware address everybody
// is asked and anybody may answer.
//
// It returns at the first answer, else after 60 ms, plus the milliseconds that
// the kernel takes to close a packet socket. An error says that the question
// could not be asked, which says nothing about the node.
func (l *Link) Probe(ctx context.Context, ifindex int, target netip.Addr, mac lb.MAC) (bool, error) {
	i, ok := l.station.Load().Interface(ifindex)
	if !ok {
		return false, fmt.Errorf("probe %v: no interface %d", target, ifindex)
	}
	if f := i.Fault(); f != lb.InterfaceOK {
		return false, fmt.Errorf("probe %v on %s: interface is %v", target, i.Name, f)
	}
	question := questionFor(i, target, mac)
	s, err := openInquiry(ifindex, lb.AddressRange{First: target, Last: target})
	if err != nil {
		return false, fmt.Errorf("probe %v on %s: %w", target, i.Name, err)
	}
	defer s.close()
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buffer := make([]byte, 2048)
	for range confirmations {
		if err := s.send(question); err != nil {
			return false, fmt.Errorf("probe %v on %s: %w", target, i.Name, err)
		}
		deadline := time.Now().Add(confirmationWait)
		if err := s.conn.SetReadDeadline(deadline); err != nil {
			return false, fmt.Errorf("probe %v on %s: %w", target, i.Name, err)
		}
		for {
			if err := ctx.Err(); err != nil {
				return false, err
			}
			frame, err := s.next(buffer)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return false, fmt.Errorf("probe %v on %s: %w", target, i.Name, err)
			}
			if answers(frame, target, mac) {
				return true, nil
			}
		}
	}
	return false, ctx.Err()
}

// openInquiry opens a socket that hears about the addresses of a range.
func openInquiry(ifindex int, r lb.AddressRange) (*socket, error) {
	etherType, filter := etherARP, filterARP
	if r.First.Is6() {
		etherType, filter = etherIPv6, filterNDP
	}
	return openSocket(ifindex, etherType, filter([]lb.AddressRange{r}))
}

// questionFor asks for target from an interface.
func questionFor(i lb.Interface, target netip.Addr, to lb.MAC) []byte {
	source := sourceFor(i, target)
	if target.Is4() {
		if to == (lb.MAC{}) {
			to = broadcast
		}
		return requestARP(to, i.MAC, source, target)
	}
	if !source.IsValid() {
		source, to = netip.IPv6Unspecified(), lb.MAC{}
	}
	return solicitation(to, i.MAC, source, target)
}

// sourceFor returns the address of an interface to ask for target from: one of
// the same subnet, or for IPv6 the link-local one. The zero address says that
// there is none, and the question will be a probe.
func sourceFor(i lb.Interface, target netip.Addr) netip.Addr {
	var source netip.Addr
	for _, p := range i.Addresses {
		if p.Contains(target) {
			return p.Addr()
		}
		if target.Is6() && p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
			source = p.Addr()
		}
	}
	return source
}

// answers reports whether a frame says that the station with the hardware
// address (zero: any station) has the address.
func answers(frame []byte, address netip.Addr, mac lb.MAC) bool {
	var by lb.MAC
	if address.Is4() {
		a, m := parseARP(frame)
		if m != wellFormed || a.request || a.sender != address {
			return false
		}
		by = a.senderMAC
	} else {
		n, m := parseNDP(frame)
		if m != wellFormed || n.solicitation || n.target != address {
			return false
		}
		by = n.mac
	}
	return mac == lb.MAC{} || by == mac
}

// next waits for one frame until the read deadline.
func (s *socket) next(buffer []byte) ([]byte, error) {
	var n int
	var failure error
	if err := s.raw.Read(func(fd uintptr) bool {
		n, failure = unix.Read(int(fd), buffer)
		return !errors.Is(failure, unix.EAGAIN)
	}); err != nil {
		return nil, err
	}
	return buffer[:n], failure
}
