package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// captured is what explains a connection that failed: who has an address (ARP,
// NDP), what cannot be reached and who says so (ICMP but echo), and how
// connections begin and are refused (SYN, RST). Offset 53 of an IPv6 packet is
// TCP's flags where no extension header stands before it.
const captured = "arp or icmp6 or (icmp and icmp[0] != 0 and icmp[0] != 8)" +
	" or tcp[tcpflags] & (tcp-syn|tcp-rst) != 0 or (ip6[6] == 6 and ip6[53] & 6 != 0)"

// refusals is the part of it that says no to a connection: an ICMP unreachable that
// quotes TCP, or a RST that answers a SYN.
const refusals = "not host 127.0.0.1 and ((icmp[0] == 3 and icmp[17] == 6) or (ip6[6] == 58 and ip6[40] == 1 and ip6[54] == 6)" +
	" or tcp[tcpflags] == (tcp-rst|tcp-ack) or (ip6[6] == 6 and ip6[53] == 0x14))"

// A Capture records on some hosts the packets that explain a failed connection,
// and what becomes of neighbors, links, addresses and routes, in files.
type Capture struct {
	network *Network
	dir     string
	hosts   []string
	cmds    []*exec.Cmd
	files   []*os.File
	// marks are the ports of marks so far.
	marks int
}

// Capture starts a capture into a new directory of the run's logs, on all
// interfaces of the hosts.
func (o *Observers) Capture(ctx context.Context, name string, hosts ...string) (_ *Capture, err error) {
	c := &Capture{network: o.network, dir: filepath.Join(o.run.logDir(), name), hosts: hosts}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop())
		}
	}()
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return nil, err
	}
	for _, host := range hosts {
		for file, args := range map[string][]string{
			".tcpdump": {"tcpdump", "-Z", "root", "-i", "any", "-n", "-s", "192", "-B", "8192", "--immediate-mode", "-U", "-w", c.packets(host), captured},
			".events":  {"ip", "-tshort", "-oneline", "monitor", "neigh", "link", "address", "route"},
		} {
			if err := c.start(ctx, host, file, args); err != nil {
				return nil, err
			}
		}
	}
	return c, c.recorded(ctx)
}

// packets is the file of a host's packets.
func (c *Capture) packets(host string) string { return filepath.Join(c.dir, host+".pcap") }

func (c *Capture) start(ctx context.Context, host, file string, args []string) error {
	out, err := os.Create(filepath.Join(c.dir, host+file))
	if err != nil {
		return err
	}
	c.files = append(c.files, out)
	cmd := c.network.Command(ctx, host, args...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return err
	}
	c.cmds = append(c.cmds, cmd)
	return nil
}

// recorded waits until all that has passed so far is in the files: a connection to
// a port of the host's own, another each time, on which nothing listens, is.
func (c *Capture) recorded(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c.marks++
	for _, host := range c.hosts {
		if err := await(ctx, "capture on "+host, func() error {
			conn, err := c.network.dialer(host)(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", c.marks))
			if err == nil {
				conn.Close()
				return fmt.Errorf("something listens on port %d", c.marks)
			}
			out, err := c.network.Exec(ctx, host, "tcpdump", "-n", "-r", c.packets(host), fmt.Sprintf("src host 127.0.0.1 and dst port %d", c.marks))
			if err == nil && out == "" {
				err = errors.New("its file does not have the mark")
			}
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// Stop ends the capture; the files stay.
func (c *Capture) Stop() error {
	var errs []error
	for _, cmd := range c.cmds {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			errs = append(errs, err)
		}
	}
	for _, cmd := range c.cmds {
		_ = cmd.Wait() // it ends by our signal
	}
	for _, f := range c.files {
		errs = append(errs, f.Close())
	}
	c.cmds, c.files = nil, nil
	return errors.Join(errs...)
}

// Remove ends the capture and removes its files.
func (c *Capture) Remove() error { return errors.Join(c.Stop(), os.RemoveAll(c.dir)) }

// Explain ends the capture and says who refused connections, and where the rest is.
// It adds to the files what the hosts remember now of connections and neighbors.
func (c *Capture) Explain(ctx context.Context) ([]string, error) {
	if err := errors.Join(c.recorded(ctx), c.Stop()); err != nil {
		return nil, err
	}
	lines := []string{"packets, events, connections and neighbors are in " + c.dir}
	for _, host := range c.hosts {
		for file, args := range map[string][]string{
			".connections":  {"conntrack", "--dump"},
			".connections6": {"conntrack", "--dump", "--family", "ipv6"},
			".neighbors":    {"ip", "-statistics", "neigh", "show", "nud", "all"},
		} {
			out, err := c.network.Exec(ctx, host, args...)
			if err := errors.Join(err, os.WriteFile(filepath.Join(c.dir, host+file), []byte(out), 0o644)); err != nil {
				return lines, err
			}
		}
		out, err := c.network.Exec(ctx, host, "tcpdump", "-n", "-r", c.packets(host), refusals)
		if err != nil {
			return lines, err
		}
		for _, line := range refused(out) {
			lines = append(lines, host+" saw "+line)
		}
	}
	return lines, nil
}

// notWho is what differs in what one host says of one address to several
// connections: whom it says it to, and the numbers.
var notWho = regexp.MustCompile(` > [^ ]+[^ :]|, (seq|length) .*`)

// refused counts the packets that tcpdump prints by who says what, in the order in
// which they first came.
func refused(printed string) []string {
	type group struct {
		first, said string
		n           int
	}
	var groups []*group
	of := map[string]*group{}
	for line := range strings.Lines(printed) {
		at, packet, _ := strings.Cut(strings.TrimSpace(line), " ")
		said := notWho.ReplaceAllString(packet, "")
		g, ok := of[said]
		if !ok {
			g = &group{first: at, said: said}
			of[said], groups = g, append(groups, g)
		}
		g.n++
	}
	var lines []string
	for _, g := range groups {
		lines = append(lines, fmt.Sprintf("%d from %s on: %s", g.n, g.first, g.said))
	}
	return lines
}
