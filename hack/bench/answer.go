package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belfrylb/belfry/hack/lab"
)

// answer asks from the client, one question at a time and in turn, a node's
// speaker for an address that it announces and the same node's kernel for its
// own. Asker, switch and cable are the same, and so is whatever else the
// machine does.
func answer(ctx context.Context, b *bench) error {
	c, err := b.well(ctx)
	if err != nil {
		return err
	}
	if err := c.serve(ctx); err != nil {
		return err
	}
	for i, name := range []string{"answer/arp", "answer/ndp"} {
		p, err := c.Observers.Probe(c.addresses[i], interval)
		if err != nil {
			return err
		}
		owner, err := answering(ctx, p, func(string) bool { return true })
		p.Stop()
		if err != nil {
			return err
		}
		clientV4, clientV6 := c.Network.Addresses(lab.Client)
		nodeV4, nodeV6 := c.Network.Addresses(owner)
		sender, own := clientV4, nodeV4
		if c.addresses[i].Is6() {
			sender, own = clientV6, nodeV6
		}
		var took [2][]time.Duration
		err = inNetns(c.Network.Netns(lab.Client), func() error {
			var err error
			took, err = race(sender, [2]netip.Addr{c.addresses[i], own})
			return err
		})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		speaker, kernel := median(took[0]), median(took[1])
		b.found(name, float64(speaker)/float64(kernel), "%s, kernel %s", duration(speaker), duration(kernel))
	}
	return nil
}

// inNetns runs f on a thread of a network namespace, which ends with it.
func inNetns(name string, f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		result <- func() error {
			ns, err := os.Open("/run/netns/" + name)
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter %s: %w", name, err)
			}
			return f()
		}()
	}()
	return <-result
}

// questions is how many are asked of each.
const questions = 5000

// race asks for two addresses in turn and returns how long each answer took.
func race(sender netip.Addr, targets [2]netip.Addr) (took [2][]time.Duration, err error) {
	nic, err := net.InterfaceByName(lab.NIC)
	if err != nil {
		return took, err
	}
	etherType := uint16(unix.ETH_P_ARP)
	if sender.Is6() {
		etherType = unix.ETH_P_IPV6
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return took, err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000}); err != nil {
		return took, err
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: etherType<<8 | etherType>>8, Ifindex: nic.Index}); err != nil {
		return took, err
	}
	buffer := make([]byte, 2048)
	lost := 0
	for i := range 2 * questions {
		target := targets[i%2]
		frame := question(nic.HardwareAddr, sender, target)
		begun := time.Now()
		if _, err := unix.Write(fd, frame); err != nil {
			return took, err
		}
		switch err := readAnswer(fd, buffer, target); {
		case errors.Is(err, unix.EAGAIN):
			lost++
		case err != nil:
			return took, err
		default:
			took[i%2] = append(took[i%2], time.Since(begun))
		}
	}
	if lost > questions/100 {
		return took, fmt.Errorf("%d of %d questions were not answered", lost, 2*questions)
	}
	return took, nil
}

func readAnswer(fd int, buffer []byte, target netip.Addr) error {
	for {
		n, err := unix.Read(fd, buffer)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || isAnswer(buffer[:n], target) {
			return err
		}
	}
}

const (
	etherLen = 14
	arpLen   = 28
	ipv6Len  = 40
	ndLen    = 32 // a solicitation with one option

	typeSolicitation  = 135
	typeAdvertisement = 136
)

// question is the frame that asks the segment for an address: an ARP request
// (RFC 826) or a Neighbor Solicitation (RFC 4861 section 4.3).
func question(mac net.HardwareAddr, sender, target netip.Addr) []byte {
	if target.Is4() {
		f := append(bytes.Repeat([]byte{0xff}, 6), mac...)
		f = append(f, 0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 1)
		f = append(append(f, mac...), sender.AsSlice()...)
		return append(append(f, 0, 0, 0, 0, 0, 0), target.AsSlice()...)
	}
	t := target.As16()
	group := netip.MustParseAddr("ff02::1:ff00:0").As16()
	copy(group[13:], t[13:])
	f := append([]byte{0x33, 0x33}, group[12:]...)
	f = append(append(f, mac...), 0x86, 0xdd)
	f = append(f, 0x60, 0, 0, 0, 0, ndLen, unix.IPPROTO_ICMPV6, 255)
	f = append(append(f, sender.AsSlice()...), group[:]...)
	f = append(f, typeSolicitation, 0, 0, 0, 0, 0, 0, 0)
	f = append(append(f, t[:]...), 1, 1)
	f = append(f, mac...)
	binary.BigEndian.PutUint16(f[etherLen+ipv6Len+2:], checksum(f[etherLen:]))
	return f
}

// checksum is that of an ICMPv6 packet (RFC 4443 section 2.3).
func checksum(packet []byte) uint16 {
	sum := uint32(ndLen) + unix.IPPROTO_ICMPV6
	for b := packet[8:]; len(b) > 0; b = b[2:] { // addresses and payload
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// isAnswer reports whether a frame answers a question for an address.
func isAnswer(frame []byte, target netip.Addr) bool {
	t := target.AsSlice()
	if target.Is4() {
		return len(frame) >= etherLen+arpLen && frame[etherLen+7] == 2 && slices.Equal(frame[etherLen+14:etherLen+18], t)
	}
	nd := etherLen + ipv6Len
	return len(frame) >= nd+24 && frame[etherLen+6] == unix.IPPROTO_ICMPV6 && frame[nd] == typeAdvertisement && slices.Equal(frame[nd+8:nd+24], t)
}
