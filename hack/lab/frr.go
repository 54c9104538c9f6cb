package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// frrPrograms is where Debian puts FRR's daemons.
const frrPrograms = "/usr/lib/frr/"

// UnableFRR says why FRR cannot run here; nil means it can.
func UnableFRR() error {
	for _, program := range []string{frrPrograms + "zebra", frrPrograms + "bgpd", "vtysh"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("FRR is not installed (lab deps): %w", err)
		}
	}
	return nil
}

// StartFRR starts FRR on the router: zebra, bgpd with a configuration, and bfdd.
// What bgpd learns enters the router's kernel, which spreads connections over
// next hops that are equally good.
func (l *Lab) StartFRR(ctx context.Context, bgpd string) error {
	dir := l.frrDir()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// The daemons give up being root.
	if out, err := exec.CommandContext(ctx, "chown", "frr:frr", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("chown %s: %w: %s", dir, err, out)
	}
	if err := l.spreadByPorts(); err != nil {
		return err
	}
	for _, d := range []struct{ name, conf string }{{"zebra", ""}, {"bfdd", ""}, {"bgpd", bgpd}} {
		conf := filepath.Join(dir, d.name+".conf")
		if err := os.WriteFile(conf, []byte(d.conf), 0o644); err != nil {
			return err
		}
		args := []string{
			frrPrograms + d.name, "-u", "frr", "-g", "frr", "-f", conf, "-i", filepath.Join(dir, d.name+".pid"),
			"-z", filepath.Join(dir, "zserv.api"), "--vty_socket", dir,
		}
		if d.name == "bfdd" {
			args = append(args, "--bfdctl", filepath.Join(dir, "bfdd.sock"))
		}
		if _, err := l.spawn("frr/"+d.name, Router, args...); err != nil {
			return err
		}
		limit, cancel := context.WithTimeout(ctx, 20*time.Second)
		err := await(limit, "wait for FRR's "+d.name, func() error {
			_, err := os.Stat(filepath.Join(dir, d.name+".vty"))
			return err
		})
		cancel()
		if err != nil {
			return l.firstDead(err)
		}
	}
	return nil
}

func (l *Lab) frrDir() string { return filepath.Join(l.Dir, dataDir, "frr") }

// Vtysh enters commands into FRR and returns what it prints.
func (l *Lab) Vtysh(ctx context.Context, commands ...string) (string, error) {
	args := []string{"vtysh", "--vty_socket", l.frrDir()}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	return l.Exec(ctx, "", args...)
}

// VtyshJSON decodes what a show command prints as JSON.
func (l *Lab) VtyshJSON(ctx context.Context, command string, into any) error {
	out, err := l.Vtysh(ctx, command+" json")
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return fmt.Errorf("%s: %w: %s", command, err, out)
	}
	return nil
}

// Listen listens on a host, at a literal address and port.
func (l *Lab) Listen(ctx context.Context, host, network, address string) (listener net.Listener, err error) {
	err = l.inside(host, func() error {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		listener, err = lc.Listen(ctx, network, address)
		return err
	})
	return listener, err
}
