------------------------------- MODULE Cover -------------------------------
(* When a decision log is complete: the gate decides while its lease runs on  *)
(* its own clock, nodes renew the lease and may be paused between any two of  *)
(* their steps, a worker reads log and leases and may say at some time that   *)
(* everything that leases up to a certain one allowed is stored.              *)
EXTENDS Integers
CONSTANTS Nodes, LeaseTime, MaxClock, MaxLeases, MaxDecided, None,
  ReadsAfterLease \* the clock must show LeaseTime more than at a read after the lease was seen
VARIABLES clock, until, decided, stored, leases, node, seen, covered
vars == <<clock, until, decided, stored, leases, node, seen, covered>>
Init == /\ clock = 0 /\ until = 0 /\ decided = 0 /\ stored = 0 /\ leases = 0
        /\ node = [n \in Nodes |-> None] /\ seen = None /\ covered = 0
Tick   == clock < MaxClock /\ clock' = clock + 1 /\ UNCHANGED <<until, decided, stored, leases, node, seen, covered>>
Decide == /\ clock < until /\ decided < MaxDecided /\ decided' = decided + 1
          /\ UNCHANGED <<clock, until, stored, leases, node, seen, covered>>
\* a node reads the gate's clock, records the lease in Postgres, then sets it in the gate
ReadClock(n) == /\ node[n] = None /\ node' = [node EXCEPT ![n] = [t |-> clock, recorded |-> FALSE]]
                /\ UNCHANGED <<clock, until, decided, stored, leases, seen, covered>>
Record(n) == /\ node[n] # None /\ ~node[n].recorded /\ leases < MaxLeases
             /\ leases' = leases + 1 /\ node' = [node EXCEPT ![n].recorded = TRUE]
             /\ UNCHANGED <<clock, until, decided, stored, seen, covered>>
SetLease(n) == /\ node[n] # None /\ node[n].recorded
               /\ until' = IF node[n].t + LeaseTime > until THEN node[n].t + LeaseTime ELSE until
               /\ node' = [node EXCEPT ![n] = None] /\ UNCHANGED <<clock, decided, stored, leases, seen, covered>>
\* the worker sees the last lease in Postgres, then reads the gate and its clock; reading stores what was decided
See  == /\ seen = None /\ seen' = [lease |-> leases, t |-> None]
        /\ UNCHANGED <<clock, until, decided, stored, leases, node, covered>>
Read == /\ seen # None /\ seen.t = None /\ seen' = [seen EXCEPT !.t = clock] /\ stored' = decided
        /\ UNCHANGED <<clock, until, decided, leases, node, covered>>
Cover == /\ seen # None /\ seen.t # None /\ stored' = decided
         /\ covered' = IF (~ReadsAfterLease \/ clock >= seen.t + LeaseTime)
                          /\ seen.lease > covered THEN seen.lease ELSE covered
         /\ UNCHANGED <<clock, until, decided, leases, node, seen>>
Forget == seen # None /\ seen' = None /\ UNCHANGED <<clock, until, decided, stored, leases, node, covered>>
Next == Tick \/ Decide \/ See \/ Read \/ Cover \/ Forget \/ \E n \in Nodes : ReadClock(n) \/ Record(n) \/ SetLease(n)
Spec == Init /\ [][Next]_vars
\* whenever the gate is lost, now: a log whose last lease is covered lacks nothing
CoveredIsWhole == covered = leases => stored = decided
============================================================================
