// Command kubectl-belfry is the plugin of kubectl: see package cli, and
// docs/reference/kubectl-belfry.md.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // what kubeconfigs name

	"github.com/belfrylb/belfry/internal/cli"
	"github.com/belfrylb/belfry/internal/daemon"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
	code := cli.Run(ctx, os.Args[1:], streams, term.IsTerminal(int(os.Stdout.Fd())), daemon.Build())
	stop()
	os.Exit(code)
}
