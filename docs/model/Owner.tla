------------------------------- MODULE Owner -------------------------------
(* The decision log of one epoch that gates of several histories had: a store *)
(* that was restored assigns the epoch again, and workers ship the log of     *)
(* each gate that they find. Log.tla has the way of one gate's lines.          *)
EXTENDS Integers, TLC
CONSTANTS None, Procs, Workers, Lines, MaxRestores,
  OwnEpoch,     \* nothing is stored of an epoch that was another rebuild's or no gate's, or is yet to come
  Remembered    \* the rebuild of an epoch is recorded when it ends
VARIABLES own, over,  \* the rebuild whose gate has the epoch (0: not reached, -1: passed over); whether it has ended
  gate,               \* of each Redis process: the rebuild that made it, and its lines so far
  store, broken,      \* the rebuild from which each stored line is (0: not stored); the log is not complete, ever
  wk, bak, id, restores
vars == <<own, over, gate, store, broken, wk, bak, id, restores>>
Init == /\ own = 0 /\ over = FALSE /\ gate = [p \in Procs |-> None] /\ store = [i \in 1..Lines |-> 0] /\ broken = FALSE
        /\ wk = [w \in Workers |-> None] /\ bak = None /\ id = 0 /\ restores = 0
\* A rebuild raises to the epoch. A gate of that epoch which it finds is of a lost history: it raises above.
Raise(p) ==
  /\ own = 0 /\ id <= MaxRestores
  /\ IF gate[p] = None THEN own' = id + 1 /\ gate' = [gate EXCEPT ![p] = [by |-> id + 1, n |-> 1]] /\ UNCHANGED <<over, broken>>
     ELSE own' = -1 /\ over' = TRUE /\ broken' = TRUE /\ UNCHANGED gate
  /\ id' = id + 1 /\ UNCHANGED <<store, wk, bak, restores>>
Ends == own > 0 /\ ~over /\ over' = TRUE /\ UNCHANGED <<own, gate, store, broken, wk, bak, id, restores>>
Decide(p) == /\ gate[p] # None /\ gate[p].by = own /\ ~over /\ gate[p].n < Lines /\ gate' = [gate EXCEPT ![p].n = @ + 1]
             /\ UNCHANGED <<own, over, store, broken, wk, bak, id, restores>>
Flush(p) == gate[p] # None /\ gate' = [gate EXCEPT ![p] = None] /\ UNCHANGED <<own, over, store, broken, wk, bak, id, restores>>
Read(w, p) == wk[w] = None /\ gate[p] # None /\ wk' = [wk EXCEPT ![w] = gate[p]] /\ UNCHANGED <<own, over, gate, store, broken, bak, id, restores>>
Ours(by) == by = own \/ (over /\ own > 0 /\ ~Remembered)
Write(w) ==
  /\ wk[w] # None
  /\ IF OwnEpoch => Ours(wk[w].by)
     THEN store' = [i \in 1..Lines |-> IF store[i] = 0 /\ i <= wk[w].n THEN wk[w].by ELSE store[i]] /\ UNCHANGED broken
     ELSE broken' = TRUE /\ UNCHANGED store
  /\ wk' = [wk EXCEPT ![w] = None] /\ UNCHANGED <<own, over, gate, bak, id, restores>>
\* the store returns to an earlier moment; gates and workers do not notice
Backup  == /\ bak = None /\ restores < MaxRestores /\ bak' = [own |-> own, over |-> over, s |-> store, b |-> broken]
           /\ UNCHANGED <<own, over, gate, store, broken, wk, id, restores>>
Restore == /\ bak # None /\ own' = bak.own /\ over' = bak.over /\ store' = bak.s /\ broken' = bak.b /\ bak' = None
           /\ restores' = restores + 1 /\ UNCHANGED <<gate, wk, id>>
Next == Backup \/ Restore \/ Ends \/ \E p \in Procs : Raise(p) \/ Decide(p) \/ Flush(p) \/ \E w \in Workers : Read(w, p) \/ Write(w)
Spec == Init /\ [][Next]_vars
\* the stored lines are those of the gate that has, or had, the epoch
LinesOfOne == \A i \in 1..Lines : store[i] # 0 => store[i] = own
============================================================================
