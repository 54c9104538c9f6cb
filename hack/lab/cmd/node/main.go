// Command node is the first process of a node whose Pods are containers. It
// has process ids and mounts of its own, so that whatever runs on the node
// ends with it, and no mount outlives it: to kill it is to cut the power.
//
// It gives the node its own view of the few directories that the programs of a
// node have for their own, brings containerd up, imports the images, and runs
// the kubelet. What it is told stands in a file (see lab.Machine).
//
// Under the name runc it is a wrapper of runc, for machines whose root may not
// lower limits.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// A machine is what the lab says of the node.
type machine struct {
	// Disk is the directory that outlives the node's process.
	Disk string `json:"disk"`
	// Containerd and Kubelet are command lines.
	Containerd []string `json:"containerd"`
	Kubelet    []string `json:"kubelet"`
	// Socket is where containerd listens.
	Socket string `json:"socket"`
	// Images are the archives to import.
	Images []string `json:"images"`
}

func main() {
	if filepath.Base(os.Args[0]) == "runc" {
		fmt.Fprintln(os.Stderr, "runc:", wrap(os.Args[1:]))
		os.Exit(1)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(log); err != nil {
		log.Error("the node ends", "err", err)
		os.Exit(1)
	}
}

func run(log *slog.Logger) error {
	if len(os.Args) != 2 || os.Getpid() != 1 {
		return errors.New("the lab starts this itself, as the first process of a node")
	}
	b, err := os.ReadFile(os.Args[1])
	if err != nil {
		return err
	}
	var m machine
	if err := json.Unmarshal(b, &m); err != nil {
		return fmt.Errorf("%s: %w", os.Args[1], err)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	if err := m.mount(); err != nil {
		return err
	}
	all := adopt()
	begun := time.Now()
	containerd, err := all.start(m.Containerd)
	if err != nil {
		return err
	}
	if err := m.load(all); err != nil {
		return err
	}
	log.Info("containerd has the images", "after", time.Since(begun).Round(time.Millisecond))
	kubelet, err := all.start(m.Kubelet)
	if err != nil {
		return err
	}
	select {
	case <-stop:
		return nil // and all that runs here ends with us
	case status := <-containerd:
		return fmt.Errorf("containerd ended: %s", tell(status))
	case status := <-kubelet:
		return fmt.Errorf("kubelet ended: %s", tell(status))
	}
}

// patience is how long containerd may take to listen.
const patience = time.Minute

// load imports the images once containerd listens.
func (m *machine) load(all *family) error {
	deadline := time.Now().Add(patience)
	for {
		conn, err := net.Dial("unix", m.Socket)
		if err == nil {
			_ = conn.Close()
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("containerd does not listen after %s: %w", patience, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	for _, image := range m.Images {
		ended, err := all.start([]string{"ctr", "--address=" + m.Socket, "--namespace=k8s.io", "images", "import", image})
		if err != nil {
			return err
		}
		if status := <-ended; status != 0 {
			return fmt.Errorf("import %s: %s", image, tell(status))
		}
	}
	return nil
}
