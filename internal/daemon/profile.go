//go:build profile

package daemon

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"syscall"
)

// profileDirectory is the variable of the environment that names where profiles go.
const profileDirectory = "BELFRY_PROFILE"

// A program that is built with the tag "profile" and finds the variable set takes a CPU
// profile from one SIGUSR1 to the next, and writes one of its memory with it. No release
// is built so.
func init() {
	dir := os.Getenv(profileDirectory)
	if dir == "" {
		return
	}
	name := filepath.Join(dir, fmt.Sprintf("%s-%d", filepath.Base(os.Args[0]), os.Getpid()))
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	go func() {
		for {
			<-asked
			if err := profile(name, asked); err != nil {
				fmt.Fprintln(os.Stderr, "profile:", err)
			}
		}
	}()
}

// profile writes the profiles until it is asked again.
func profile(name string, asked <-chan os.Signal) error {
	cpu, err := os.Create(name + ".cpu.pprof")
	if err != nil {
		return err
	}
	defer cpu.Close()
	memory, err := os.Create(name + ".memory.pprof")
	if err != nil {
		return err
	}
	defer memory.Close()
	if err := pprof.StartCPUProfile(cpu); err != nil {
		return err
	}
	<-asked
	pprof.StopCPUProfile()
	return pprof.Lookup("heap").WriteTo(memory, 0)
}
